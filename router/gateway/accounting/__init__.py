"""What requests turned out to be: sizes, outcomes, tenants; and predictions learnt from them.

`accounts` opens and closes each request's account exactly once; `tenants` sums them.
"""
