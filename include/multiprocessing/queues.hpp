// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// Queues between processes: Queue, SimpleQueue, JoinableQueue.
///
/// A queue lies in anonymous shared memory, in a region as large as half of the machine's memory
/// that takes up only what is unread; it is gone with its last user, however that ends. Any number
/// of processes and threads may put and get at once. Each of them may be killed at any instruction:
/// the others go on. What put() returned from is in the queue, whatever becomes of its putter; an
/// item that a killed process had taken is lost with it, and nothing else is.
///
/// Queues are handles. Capture one, pass it to a Process, or put it inside a message: every holder
/// sees the same queue. One that is received must be opened by its receiver before its last holder
/// elsewhere ends; else decoding throws an Error that says so.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include <multiprocessing/detail/queue/channel.hpp>
#include <multiprocessing/errors.hpp>

namespace multiprocessing {

/// A first in, first out queue of T. Items of one producer arrive in its order.
///
/// Differences from Python: there is no feeder thread. put() encodes the item before it returns, so
/// changing the object afterwards changes nothing, an item that can't be encoded throws at put(),
/// and a process that has put items may end and be joined before anybody gets them.
/// qsize(), empty() and full() are exact at their instant.
/// \tparam T  mp::Sendable; need not be copyable
template <class T>
class Queue {
public:
    using value_type = T;
    using mp_handle_tag = void;

    /// Bounded by memory only: put() never blocks.
    /// \throws OsError if the kernel refuses the shared memory or its descriptor
    Queue() : Queue(0) {}
    /// \param maxsize  items at most; 0: bounded by memory only
    /// \throws OsError as above
    explicit Queue(std::size_t maxsize) : Queue("mp:Queue", maxsize) {}

    /// Another handle of the same queue. A moved-from queue is still one.
    Queue(const Queue&) = default;
    Queue& operator=(const Queue&) = default;
    ~Queue() = default;

    /// Appends an item. Blocks while the queue is full. Wakes one of those that wait in get().
    /// If killed: the item is in the queue or it is not; never half of it, and nobody waits for it.
    /// \throws ClosedError if close() was called in this process, before or meanwhile;
    ///     OsError (ENOMEM, ENOSPC) if there is no memory: the queue is as before;
    ///     what the item's own serialize function throws
    void put(const T& item) { channel_.put(item, detail::deadline::never()); }

    /// As put(), for so long at most.
    /// \throws QueueFull when the timeout ends first; zero does not wait
    void put(const T& item, duration timeout) { put_until(item, detail::deadline::after(timeout)); }

    /// \throws QueueFull
    void put_nowait(const T& item) { put_until(item, detail::deadline::at_once()); }

    /// \return false if the queue is full
    bool try_put(const T& item) { return channel_.put(item, detail::deadline::at_once()); }

    /// Takes the oldest item. Blocks while there is none: also when every producer has ended, since
    /// a new one may come; put a last item that says so.
    /// Cost: one copy out of shared memory and one decoding; large standard containers are decoded
    /// in place, without the copy.
    /// If killed: an item already taken is lost; the queue stays whole for the others.
    /// \throws ClosedError as put(); SerializationError if the bytes are not a T, and what the
    ///     item's own load function throws: that item is then gone. std::bad_alloc if there is no
    ///     memory for the message: the item stays then, for a getter with more
    T get() { return *channel_.get(detail::deadline::never()); }

    /// \throws QueueEmpty when the timeout ends first; zero does not wait
    T get(duration timeout) { return get_until(detail::deadline::after(timeout)); }

    /// \throws QueueEmpty
    T get_nowait() { return get_until(detail::deadline::at_once()); }

    /// Nothing if the queue is empty.
    std::optional<T> try_get() { return channel_.get(detail::deadline::at_once()); }

    /// Nothing if the queue was empty for so long.
    std::optional<T> try_get_for(duration timeout) {
        return channel_.get(detail::deadline::after(timeout));
    }

    bool empty() const { return qsize() == 0; }
    /// False for ever if maxsize is 0.
    bool full() const { return channel_.ring().full(); }
    /// Items put and not taken, at one instant between call and return.
    std::size_t qsize() const { return static_cast<std::size_t>(channel_.ring().qsize()); }

    /// This process puts and gets no more, through any handle: ClosedError from any later call, and
    /// from those that block now (half a second later at most); its fileno() becomes readable for
    /// good. Other processes go on. Items stay.
    void close() { channel_.ring().close(); }

    /// A descriptor for poll, epoll and event loops, readable exactly while the queue is not empty,
    /// level-triggered. Take items with try_get(): another process may be faster. It belongs to the
    /// queue (don't read or close it) and to the process that called this; up to 16 processes may
    /// poll a queue. From the first call on, each change between empty and not empty costs system
    /// calls. Needs /proc.
    /// \throws Error if too many processes poll already, OsError if there is no descriptor left
    int fileno() { return channel_.ring().fileno(); }

    /// The same queue?
    friend bool operator==(const Queue& a, const Queue& b) noexcept {
        return a.channel_ == b.channel_;
    }

    /// For messages.
    template <class Archive>
    void save(Archive& archive) const {
        channel_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        channel_.load(archive, "a Queue");
    }

protected:
    Queue(const char* name, std::size_t maxsize) : channel_(name, {.maxsize = maxsize}) {}

    detail::channel<T> channel_;

private:
    void put_until(const T& item, detail::deadline until) {
        if (!channel_.put(item, until))
            throw QueueFull(channel_.ring().maxsize() == 0
                                ? std::string("put: another process held the queue's lock until "
                                              "the deadline; it may be stopped")
                                : "put: the queue held " +
                                      std::to_string(channel_.ring().maxsize()) +
                                      " items, its maxsize, until the deadline; get some, wait "
                                      "longer, or make it larger");
    }
    T get_until(detail::deadline until) {
        std::optional<T> item = channel_.get(until);
        if (!item) throw QueueEmpty("get: no item came into the queue until the deadline");
        return *std::move(item);
    }
};

/// A queue whose getters say when an item is done with, and that others wait for.
/// If a process is killed between get() and task_done(), nobody reports that item done: join()
/// waits until somebody calls task_done() in its place. join() with a timeout notices.
template <class T>
class JoinableQueue : public Queue<T> {
public:
    JoinableQueue() : JoinableQueue(0) {}
    explicit JoinableQueue(std::size_t maxsize) : Queue<T>("mp:JoinableQueue", maxsize) {}

    /// An item that was got is done with. Never blocks for long.
    /// \throws Error if called more often than items were put
    void task_done() {
        if (!this->channel_.ring().task_done())
            throw Error("task_done: called more often than items were put into the queue");
    }

    /// Blocks until every item that was put has been reported done, be it only for a moment.
    /// \throws ClosedError if close() was called in this process, before or meanwhile
    void join() { this->channel_.ring().join(detail::deadline::never()); }

    /// \return false if the timeout ended first
    bool join(duration timeout) {
        return this->channel_.ring().join(detail::deadline::after(timeout));
    }
};

/// A queue with few words.
template <class T>
class SimpleQueue {
public:
    using value_type = T;
    using mp_handle_tag = void;

    SimpleQueue() : channel_("mp:SimpleQueue", {}) {}
    SimpleQueue(const SimpleQueue&) = default;
    SimpleQueue& operator=(const SimpleQueue&) = default;
    ~SimpleQueue() = default;

    /// As Queue::put(); never blocks.
    void put(const T& item) { channel_.put(item, detail::deadline::never()); }
    /// As Queue::get().
    T get() { return *channel_.get(detail::deadline::never()); }
    bool empty() const { return channel_.ring().qsize() == 0; }
    /// As Queue::close().
    void close() { channel_.ring().close(); }

    friend bool operator==(const SimpleQueue& a, const SimpleQueue& b) noexcept {
        return a.channel_ == b.channel_;
    }
    template <class Archive>
    void save(Archive& archive) const {
        channel_.save(archive);
    }
    template <class Archive>
    void load(Archive& archive) {
        channel_.load(archive, "a SimpleQueue");
    }

private:
    detail::channel<T> channel_;
};

}  // namespace multiprocessing
