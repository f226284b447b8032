"""A reader of the files that W&B writes without a network."""

import struct

from wandb.proto import wandb_internal_pb2

HEAD = 7
"""Bytes before a file's first record, and before each part of a record."""
BLOCK = 32768
"""Size of a block in bytes: no part of a record crosses the boundary of two."""


def wandb_records(content: bytes) -> list[wandb_internal_pb2.Record]:
    """Read a ``.wandb`` file: a head, then a log in LevelDB's format."""
    records, place, parts = [], HEAD, b""
    while place + HEAD <= len(content):
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
        left = BLOCK - place % BLOCK
        place += left if left < HEAD else 0
    return records
