"""Base class of guides that search image by image, over a trained one.
Every search guide of the package extends `SearchGuide`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import Images
from dood_pyro.inference.search.mean_field import MeanFieldGuide


class SearchGuide(Guide):
    """A guide over a trained one that finds each image's distribution by a search of its own.

    Args:
        model: the program that the guide is for.
        guide: the trained guide.
    """

    searches: ClassVar[bool] = True
    search_share: ClassVar[float] = 0.7

    def __init__(self, model: Any, guide: Guide) -> None:
        super().__init__(model)
        # In a list: as a submodule its weights would be counted as this guide's.
        self._guide = [guide]

    @property
    def guide(self) -> Any:
        """The trained guide."""
        return self._guide[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # What `to` and its like do to this module they do to the ones within.
        for program in (self.model, self.guide):
            program._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def posterior(self, images: Images, progress: Progress | None = None) -> MeanFieldGuide:
        """The distributions that the search finds, which handlers around this guide do not see.

        Args:
            progress: called with the images done since the last call, parts of them counted; a search
                counts as ``search_share`` of an image.
        """
        share = self.search_share
        return self.search(images, progress and (lambda done: progress(share * done)))

    def search(self, images: Images, progress: Progress | None = None) -> MeanFieldGuide:
        """`posterior` with progress by whole images."""
        raise NotImplementedError

    def forward(self, images: Images) -> None:
        """Search, and sample. For many samples per image take `posterior` and sample that."""
        self.search(images)(images)
