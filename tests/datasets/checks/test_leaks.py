"""Validation images among training images, labelled ones among unlabelled ones."""

import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmseg_derprop.datasets import SemiDataset, check_leaks
from mmseg_derprop.datasets.checks import leaks

CLASSES = dict(classes=('x', 'y'))


@pytest.fixture
def root(tmp_path):
    """Folders train with 0..5 and val with 4..6, all different files; 0 and 1 are labelled."""
    for folder, numbers in dict(train=range(6), val=range(4, 7)).items():
        (tmp_path / folder).mkdir()
        for i in numbers:
            Image.new('L', (4, 4)).save(tmp_path / folder / f'{i}.png')
    (tmp_path / 'labeled.txt').write_text('0\n1\n')
    (tmp_path / 'unlabeled.txt').write_text('2\n3\n4\n5\n')
    return tmp_path


def source(root, folder='train', **kwargs):
    return BaseSegDataset(
        data_root=str(root), data_prefix=dict(img_path=folder), img_suffix='.png', metainfo=CLASSES, **kwargs
    )


def semi(root, folder='train', ann_file='unlabeled.txt'):
    unlabeled = dict(type='UnlabeledDataset', data_root=str(root), img_suffix='.png')
    unlabeled |= dict(data_prefix=dict(img_path=folder), ann_file=ann_file)
    return SemiDataset(source(root, ann_file='labeled.txt'), unlabeled)


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr(leaks, 'print_log', lambda message, **kwargs: messages.append(message))
    return lambda: ' '.join(messages)


def test_other_files_of_the_same_name_are_no_leak(root, logged):
    check_leaks(semi(root), source(root, 'val'))
    check_leaks(semi(root), None)
    assert not logged()


def test_validation_images_in_the_training_folder(root, logged):
    (root / 'val.txt').write_text('1\n2\n3\n4\n5\n')
    val = source(root, ann_file='val.txt')
    with pytest.raises(ValueError) as caught:
        check_leaks(semi(root), val)
    for words in ('1 of 5 validation images are among the labelled', '/1.png', "'warn'"):
        assert words in str(caught.value)
    (root / 'val.txt').write_text('2\n3\n4\n5\n')
    with pytest.raises(ValueError, match=r'4 of 4 .*among the unlabelled.*/2.png.*/3.png.*/4.png') as caught:
        check_leaks(semi(root), source(root, ann_file='val.txt'))
    assert '5.png' not in str(caught.value)
    check_leaks(semi(root), val, 'warn')
    assert '4 of 5 validation images are among the unlabelled' in logged()


def test_a_folder_under_another_name(root, monkeypatch):
    (root / 'link').symlink_to(root / 'val')
    with pytest.raises(ValueError, match='3 of 3 .*among the unlabelled'):
        check_leaks(semi(root, 'link', ''), source(root, 'val'))
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match='3 of 3 .*among the unlabelled'):
        check_leaks(semi(root, 'train/../val', ''), source('.', 'val'))


def test_joined_and_repeated_sets(root):
    good, bad = source(root, 'val'), source(root, ann_file='labeled.txt')
    for val in (ConcatDataset([good, bad]), RepeatDataset(bad, 2)):
        with pytest.raises(ValueError, match='among the labelled'):
            check_leaks(semi(root), val)
    check_leaks(semi(root), [1, 2])


def test_labelled_among_unlabelled_is_counted(root, logged):
    check_leaks(semi(root, ann_file=''), source(root, 'val'))
    assert '2 of the 2 labelled images are also among the unlabelled ones' in logged()
