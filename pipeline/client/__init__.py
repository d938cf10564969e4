"""Read results and stage outputs from a store, in any program. Knows the store only."""

from framegate.pipeline.client.subscription import Subscription

__all__ = ["Subscription"]
