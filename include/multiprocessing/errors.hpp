// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// The exceptions that this library throws. All derive from multiprocessing::Error, so one catch
/// clause takes them all. `what()` says what was being done, on what, and what to do next.
///
/// They have default visibility: an exception thrown in a shared library that hides its symbols
/// is caught by its type in the program.

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/types.h>

/// Default visibility, for types that cross the borders of shared libraries.
#define MP_EXPORT __attribute__((visibility("default")))

namespace multiprocessing {

/// The base of all exceptions of this library.
class MP_EXPORT Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A process was used against its rules: started twice, joined by a stranger, closed while it
/// runs; a lock released by somebody who does not hold it.
class MP_EXPORT ProcessError : public Error {
public:
    using Error::Error;
};

/// Used after close() or terminate().
class MP_EXPORT ClosedError : public Error {
public:
    using Error::Error;
};

/// The time ran out. What was waited for goes on.
class MP_EXPORT TimeoutError : public Error {
public:
    using Error::Error;
};

/// Nothing was in the queue until the deadline.
class MP_EXPORT QueueEmpty : public Error {
public:
    using Error::Error;
};

/// No room was in the queue until the deadline.
class MP_EXPORT QueueFull : public Error {
public:
    using Error::Error;
};

/// The other end was closed or its process ended, and everything sent before was received.
class MP_EXPORT EndOfFile : public Error {
public:
    using Error::Error;
};

/// A message is longer than the buffer given for it.
class MP_EXPORT BufferTooShort : public Error {
public:
    BufferTooShort(const std::string& what, std::vector<std::byte> message)
        : Error(what), message_(std::move(message)) {}

    /// The whole message, which is no longer in the connection.
    const std::vector<std::byte>& message() const noexcept { return message_; }

private:
    std::vector<std::byte> message_;
};

/// Bytes are not what they should be: malformed, left over, or of another type than expected.
/// Names the expected and the received type where both are known.
class MP_EXPORT SerializationError : public Error {
public:
    using Error::Error;
};

/// A message names a callable that this process does not have.
class MP_EXPORT UnknownCallable : public Error {
public:
    using Error::Error;
};

/// The holder of a lock died; what it guarded may be half written. recover() takes the lock.
class MP_EXPORT AbandonedLock : public Error {
public:
    using Error::Error;
};

/// A barrier timed out, was aborted, or lost a waiting party.
class MP_EXPORT BrokenBarrier : public Error {
public:
    using Error::Error;
};

/// The other side has another key, or none.
class MP_EXPORT AuthenticationError : public Error {
public:
    using Error::Error;
};

/// An exception from another process, of a type that could not be rebuilt in this one.
class MP_EXPORT RemoteError : public Error {
public:
    RemoteError(std::string type, const std::string& what, pid_t worker_pid)
        : Error(what), type_(std::move(type)), worker_pid_(worker_pid) {}

    /// Name of the exception's type, as its process calls it.
    const std::string& type() const noexcept { return type_; }
    /// The process that threw.
    pid_t worker_pid() const noexcept { return worker_pid_; }

private:
    std::string type_;
    pid_t worker_pid_;
};

/// The process that ran a task ended before the task did.
class MP_EXPORT WorkerCrashed : public Error {
public:
    /// \param exitcode  as Process::exitcode(): n after exit(n), -SIG after a signal
    WorkerCrashed(const std::string& what, int exitcode, pid_t worker_pid)
        : Error(what), exitcode_(exitcode), worker_pid_(worker_pid) {}

    /// The signal that ended the process; 0 if it ended otherwise.
    int signal() const noexcept { return exitcode_ < 0 ? -exitcode_ : 0; }
    /// n after exit(n), -SIG after a signal.
    int exitcode() const noexcept { return exitcode_; }
    pid_t worker_pid() const noexcept { return worker_pid_; }

private:
    int exitcode_;
    pid_t worker_pid_;
};

/// A task ran longer than it may; its worker was killed.
class MP_EXPORT TaskTimeout : public Error {
public:
    using Error::Error;
};

/// A task was cancelled, or its pool was terminated.
class MP_EXPORT Cancelled : public Error {
public:
    using Error::Error;
};

/// A pool can't run tasks any more.
class MP_EXPORT PoolBroken : public Error {
public:
    using Error::Error;
};

/// The kernel refused a system call. `what()` names the call and its reason.
class MP_EXPORT OsError : public Error {
public:
    /// \param code  an errno value
    /// \param what  the call, and what it was to do: "memfd_create for a queue"
    OsError(int code, std::string_view what)
        : Error(std::string(what) + ": " + std::generic_category().message(code)),
          code_(code, std::generic_category()) {}

    const std::error_code& code() const noexcept { return code_; }

private:
    std::error_code code_;
};

}  // namespace multiprocessing
