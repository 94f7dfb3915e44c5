"""The store: one SQLite file for everything that changes together.

It knows rows and keys, not messages. Changes go into the open `Transaction`; when the one writer
thread is free it gets what there is, and who waits for it is told when it is on disk. While one
transaction is being written the next one collects, so that many changes share one fdatasync.
"""
