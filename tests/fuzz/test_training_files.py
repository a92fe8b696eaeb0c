"""Training data of any bytes: with the default policies they are named, or replaced and counted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from mutations import EDITS, edited
from own_errors import cases, ends_well, folder
from PIL import Image

import mmseg_derprop  # noqa: F401  (registers the parts)

PACK = dict(type='PackSemiInputs')


def whole(place, name):
    """The bytes of an image, or of a label file with the ids 0 to 2."""
    shape = (24, 31, 3) if name.startswith('img') else (24, 31)
    Image.fromarray(np.random.default_rng(0).integers(3, size=shape, dtype=np.uint8)).save(place / name)
    return (place / name).read_bytes()


@cases(300)
@given(
    st.sampled_from(['labeled', 'labels', 'unlabeled', 'unlabels']),
    st.sampled_from(['.png', '.jpg']),
    EDITS | st.just([]),
    st.none() | st.binary(max_size=60),
    st.sampled_from(['stop', 'skip']),
    st.sampled_from(['stop', 'skip']),
)
def test_damaged_training_files(which, suffix, edits, other, broken_labeled, broken_unlabeled):
    init_default_scope('mmseg')
    with folder() as place:
        contents = {name: whole(place, name) for name in ('img.png', 'img.jpg', 'label.png')}
        for kind in ('labeled', 'labels', 'unlabeled', 'unlabels'):
            (place / kind).mkdir()
            for number in range(3):
                end = '.png' if kind in ('labels', 'unlabels') else suffix
                content = contents['label.png' if kind in ('labels', 'unlabels') else f'img{suffix}']
                if kind == which and number == 0:
                    content = edited(content, edits) if other is None else other
                (place / kind / f'{number}{end}').write_bytes(content)
        views = dict(weak=[PACK], strong=[dict(type='StrongAugment'), PACK])
        sources = {}
        for kind, maps, load, branches in (
            ('labeled', 'labels', 'LoadAnnotations', dict(sup=[PACK])),
            ('unlabeled', 'unlabels', 'LoadUnlabeledAnnotations', views),
        ):
            crop = [dict(type='PadToCrop', size=16), dict(type='RandomCrop', crop_size=(16, 16))]
            pipeline = [dict(type='LoadImageFromFile'), dict(type=load), *crop, dict(type='MultiBranch', **branches)]
            prefix = dict(img_path=str(place / kind), seg_map_path=str(place / maps))
            sources[kind] = dict(data_prefix=prefix, img_suffix=suffix, pipeline=pipeline)
        sources['labeled'] |= dict(type='BaseSegDataset', metainfo=dict(classes=('x', 'y', 'z')))
        sources['unlabeled'] |= dict(type='UnlabeledDataset')
        policies = dict(broken_labeled=broken_labeled, broken_unlabeled=broken_unlabeled)
        with ends_well(f'/{which}/0'):
            dataset = DATASETS.build(dict(type='SemiDataset', **sources, **policies))
            for index in range(6):
                for image in dataset[index]['inputs'].values():
                    assert image.shape == (3, 16, 16)
