"""Answering test prompts: what is asked, by which backend, in which slots, and the answers on disk."""
