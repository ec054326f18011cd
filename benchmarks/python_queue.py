# SPDX-License-Identifier: BSL-1.0
"""python_queue.py (record|array|bytes N) SECONDS: items per second through a multiprocessing.Queue,
one putter and one getter, on two cores."""

import array
import multiprocessing
import os
import sys
import time


def settle(index):
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[index % 2 % len(cpus)]})


def put(queue, item, seconds):
    settle(0)
    small = not isinstance(item, array.array) and len(item) < 4096
    queue.put(None)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(32 if small else 1):
            queue.put(item)
    queue.put(None)


def main():
    kind, seconds = sys.argv[1], float(sys.argv[-1])
    if kind == "record":
        item, bound = (1, 2, "three"), 4096
    elif kind == "array":
        item, bound = array.array("d", bytes(8 << 20)), 2
    else:
        item = bytes(int(sys.argv[2]))
        bound = max(4, min(4096, (4 << 20) // len(item)))
    context = multiprocessing.get_context("fork")
    queue = context.Queue(bound)  # else its feeder thread takes all memory
    process = context.Process(target=put, args=(queue, item, seconds))
    process.start()
    settle(1)
    queue.get()
    begin = time.monotonic()
    got = 0
    while queue.get() is not None:
        got += 1
    print(got / (time.monotonic() - begin))
    process.join()


main()
