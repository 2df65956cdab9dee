"""Pictures that clients give: found in messages, checked, made what a model takes. Every protocol's go through here.

``ImageCheck.check_images(messages, limits)`` is the way in. What comes out holds ``data:`` URIs alone, so an engine
never has anything to fetch.
"""

from app.images.check import ImageCheck
from app.images.fetch import ImageFetcher

__all__ = ["ImageCheck", "ImageFetcher"]
