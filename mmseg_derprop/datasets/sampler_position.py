"""Where in the data all processes together are."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.options import NonNegativeInt, PositiveInt, check_options

Place = tuple[NonNegativeInt, NonNegativeInt]


@check_options
@dataclass(frozen=True)
class SamplerPosition:
    """Arithmetic of the stream that :class:`SemiSampler` describes, a group of images each iteration."""

    labeled_images: PositiveInt
    unlabeled_images: PositiveInt
    labeled_step: PositiveInt  # images that all processes together draw in an iteration
    unlabeled_step: PositiveInt
    iteration: NonNegativeInt = 0  # where the stream begins; 0 unless the numbers above have changed since
    labeled: Place = (0, 0)  # number of the pass or epoch there, and images of it drawn before
    unlabeled: Place = (0, 0)

    @property
    def iterations_per_epoch(self) -> int:
        return -(-self.unlabeled_images // self.unlabeled_step)

    def labeled_at(self, iteration: int, offset: int = 0) -> tuple[int, int]:
        """Pass and place in it of a labelled image, the ``offset``-th that all processes draw in an iteration."""
        number, place = self.labeled
        drawn = place + (iteration - self.iteration) * self.labeled_step + offset
        return number + drawn // self.labeled_images, drawn % self.labeled_images

    def unlabeled_at(self, iteration: int, offset: int = 0) -> tuple[int, int]:
        """Epoch and place in it of an unlabelled image; a place behind the last image is the beginning again."""
        epoch, place = self.unlabeled
        iteration -= self.iteration
        rest = -(-(self.unlabeled_images - place) // self.unlabeled_step)
        if iteration >= rest:
            more, iteration = divmod(iteration - rest, self.iterations_per_epoch)
            epoch, place = epoch + 1 + more, 0
        return epoch, place + iteration * self.unlabeled_step + offset

    def moved(self, other: SamplerPosition, iteration: int) -> SamplerPosition:
        """A stream with the numbers of images of ``other``, beginning where this one is before an iteration."""
        sizes = other.labeled_images, other.unlabeled_images
        labeled, unlabeled = (
            (number, place) if place < size else (number + 1, 0)
            for (number, place), size in zip((self.labeled_at(iteration), self.unlabeled_at(iteration)), sizes)
        )
        return SamplerPosition(*sizes, other.labeled_step, other.unlabeled_step, iteration, labeled, unlabeled)
