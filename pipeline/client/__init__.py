"""Readers of results and stage outputs for any program, alone or in a consumer group."""

from framegate.pipeline.client.subscription import Subscription

__all__ = ["Subscription"]
