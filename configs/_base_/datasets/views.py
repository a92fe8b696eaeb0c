# The views of labelled and unlabelled images. A data config puts its geometry between loading and views.
labeled_view = dict(type='MultiBranch', sup=[dict(type='PackSemiInputs')])
load_unlabeled = [dict(type='LoadImageFromFile'), dict(type='LoadUnlabeledAnnotations')]
strong = [dict(type='StrongAugment'), dict(type='RandomCutMixBox'), dict(type='PackSemiInputs')]
views = dict(type='MultiBranch', weak=[dict(type='PackSemiInputs')], strong=strong)
two_strong_views = dict(type='MultiBranch', weak=[dict(type='PackSemiInputs')], strong=strong, strong2=strong)
second_views = dict(type='MultiBranch', weak_mix=[dict(type='PackSemiInputs')], strong_mix=strong)
second_two_strong_views = dict(
    type='MultiBranch', weak_mix=[dict(type='PackSemiInputs')], strong_mix=strong, strong2_mix=strong
)
