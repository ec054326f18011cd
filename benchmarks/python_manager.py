# SPDX-License-Identifier: BSL-1.0
"""python_manager.py WHAT: figures as those of manager.cpp, of Python's Manager."""

import multiprocessing
import multiprocessing.managers
import statistics
import sys
import time


class Counter:
    def __init__(self):
        self.value = 0

    def add(self, n):
        self.value += n
        return self.value


class Manager(multiprocessing.managers.SyncManager):
    pass


Manager.register("Counter", Counter)


def a_call(calls, f, rounds=5):
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for i in range(calls):
            f(i)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / calls


def client(counter, barrier, calls):
    counter.add(0)
    barrier.wait()
    for _ in range(calls):
        counter.add(1)


def main():
    what = sys.argv[1]
    context = multiprocessing.get_context("fork")
    with Manager(ctx=context) as manager:
        counter = manager.Counter()
        if what == "call":
            print(a_call(1000, lambda i: counter.add(1)) * 1e6)
        elif what == "four":
            calls = 1000
            barrier = context.Barrier(5)
            clients = [context.Process(target=client, args=(counter, barrier, calls))
                       for _ in range(4)]
            for one in clients:
                one.start()
            barrier.wait()
            begin = time.perf_counter()
            for one in clients:
                one.join()
            print(4 * calls / (time.perf_counter() - begin))
        else:
            items = {i: i for i in range(1000 if what in ("set", "get") else 10_000)}
            d = manager.dict()
            if what == "update":
                print(a_call(1, lambda i: d.update(items)) * 1e3)
                return
            d.update(items)
            if what == "copy":
                print(a_call(1, lambda i: d.copy()) * 1e3)
            elif what == "set":
                print(a_call(1000, lambda i: d.__setitem__(i % 1000, i)) * 1e6)
            elif what == "get":
                print(a_call(1000, lambda i: d[i % 1000]) * 1e6)


main()
