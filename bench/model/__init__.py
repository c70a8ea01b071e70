"""The model under study: open_clip's CLIP, its features, its linear maps and what can be attached to them.

It may be imported by every wing above; it imports `bench.core` only. It must not know settings, data or methods.
"""
