"""The one door to language models: requests, replies, and the ledger in which every paid answer is kept.

`client` asks and remembers. Behind it stand an endpoint (`endpoint`, by way of `transport`; `protocol` says what is
sent and read, `thoughts` what a model thought before it replied, `refusals` what an error means, `limits` how fast and
at what cost), its Batch API (`batch`) or a model on this machine (`local`).
"""
