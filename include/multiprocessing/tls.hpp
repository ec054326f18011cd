// SPDX-License-Identifier: BSL-1.0
#pragma once

/// \file
/// mp::tls: connections that nobody else can join, read or change (OpenSSL >= 3.0; link with its
/// ssl and crypto, or CMake's multiprocessing::tls).
///
/// TLS 1.3 with an external pre-shared key and no certificates: RFC 8446, 4.2.11, mode psk_dhe_ke.
/// The key is HKDF-SHA256 (RFC 5869) of the authkey, without salt, with the info "multiprocessing
/// tls 1", 32 bytes; its identity is "multiprocessing". Each side proves that it has the key, and
/// each session has keys of its own, which the authkey does not give away later.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <pthread.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>

#include <multiprocessing/connection.hpp>
#include <multiprocessing/detail/net/own_socket.hpp>
#include <multiprocessing/detail/net/stream.hpp>
#include <multiprocessing/detail/platform/fork.hpp>
#include <multiprocessing/errors.hpp>

static_assert(OPENSSL_VERSION_NUMBER >= 0x30000000L, "mp::tls needs OpenSSL 3.0 or newer");

namespace multiprocessing {
namespace detail {

template <auto Free>
struct openssl_free {
    template <class T>
    void operator()(T* p) const noexcept {
        Free(p);
    }
};
template <class T, auto Free>
using openssl_ptr = std::unique_ptr<T, openssl_free<Free>>;

/// What OpenSSL says of the last failure of this thread.
inline std::string openssl_reason() {
    const unsigned long code = ::ERR_peek_last_error();
    const char* const reason = code != 0 ? ::ERR_reason_error_string(code) : nullptr;
    return reason ? reason : "no reason given";
}
[[noreturn]] inline void throw_openssl(const char* call) {
    throw Error(std::string("mp::tls: ") + call + ": " + openssl_reason());
}

/// The key of the session's key schedule. Wiped at its end.
class tls_key {
public:
    explicit tls_key(const AuthKey& from) {
        static char digest[] = "SHA256";
        static constexpr char info[] = "multiprocessing tls 1";
        const auto secret = from.bytes();
        const auto only_read = [](const void* p) { return const_cast<void*>(p); };
        const OSSL_PARAM how[] = {
            ::OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
            ::OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, only_read(secret.data()),
                                                secret.size()),
            ::OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, only_read(info),
                                                sizeof info - 1),
            ::OSSL_PARAM_construct_end()};
        const openssl_ptr<EVP_KDF, ::EVP_KDF_free> kdf(::EVP_KDF_fetch(nullptr, "HKDF", nullptr));
        const openssl_ptr<EVP_KDF_CTX, ::EVP_KDF_CTX_free> context(::EVP_KDF_CTX_new(kdf.get()));
        if (!context || ::EVP_KDF_derive(context.get(), bytes().data(), bytes().size(), how) != 1)
            throw_openssl("HKDF");
    }
    tls_key(const tls_key&) = delete;
    tls_key& operator=(const tls_key&) = delete;

    std::span<unsigned char> bytes() const noexcept {
        const auto all = bytes_.get();
        return {reinterpret_cast<unsigned char*>(all.data()), all.size()};
    }

private:
    secret_bytes bytes_{32};
};

/// Held while this thread is in OpenSSL, and over forks: a child must not find OpenSSL's own locks,
/// or a session, in the hands of a thread that it has not got. Nothing blocks meanwhile.
class tls_section {
public:
    tls_section() noexcept {
        process_identity::get().hook(fork_hooks::tls, hooks);
        ::pthread_rwlock_rdlock(&lock_);
    }
    tls_section(const tls_section&) = delete;
    tls_section& operator=(const tls_section&) = delete;
    ~tls_section() { ::pthread_rwlock_unlock(&lock_); }

private:
    static inline pthread_rwlock_t lock_ = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
    static inline thread_local constinit bool forks_ = false;  // and has the lock alone
    static constexpr fork_hooks hooks{
        .lock =
            [] {
                ::pthread_rwlock_wrlock(&lock_);
                forks_ = true;
            },
        .unlock =
            [] {
                if (std::exchange(forks_, false)) ::pthread_rwlock_unlock(&lock_);
            },
        .in_child = [] {  // its number is another one: it can't unlock
            forks_ = false;
            lock_ = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
        }};
};

class tls_stream;

/// What all sessions of this process share.
class tls_library {
public:
    static const tls_library& get() { return only_one<tls_library>::get(); }

    SSL_CTX* context(transport_kind::side side) const noexcept {
        return (side == transport_kind::side::server ? server_ : client_).get();
    }
    const BIO_METHOD* socket() const noexcept { return socket_.get(); }

private:
    friend only_one<tls_library>;
    tls_library();

    openssl_ptr<SSL_CTX, ::SSL_CTX_free> client_, server_;
    openssl_ptr<BIO_METHOD, ::BIO_meth_free> socket_;
};

class tls_stream final : public stream {
public:
    tls_stream(own_socket socket, transport_kind::side side, const AuthKey& key)
        : stream(std::move(socket)), side_(side), authkey_(key) {}

    ~tls_stream() override {
        const tls_section here;
        ssl_.reset();
    }

    progress log_in() override {
        if (side_ == transport_kind::side::server && front_size_ < sizeof front_) {
            const progress so_far = receive_front();
            if (so_far != progress::done) return so_far;
        }
        const tls_section here;
        if (!ssl_) begin();
        const progress result = step([&] { return ::SSL_do_handshake(ssl_.get()); });
        if (result != progress::done) return result;
        // Without this a server with a certificate, but without the key, would do.
        if (::SSL_session_reused(ssl_.get()) != 1) throw_other_key("the key was not used");
        logged_in_ = true;
        static constexpr unsigned char nothing[32] = {};  // the key is in the session, too
        ::SSL_SESSION_set1_master_key(::SSL_get_session(ssl_.get()), nothing, sizeof nothing);
        authkey_.reset();
        key_.reset();
        return progress::done;
    }
    progress read(std::span<std::byte> to, std::size_t& size) override {
        if (read_failed_) return progress::ended;
        const tls_section here;
        return step([&] { return ::SSL_read_ex(ssl_.get(), to.data(), to.size(), &size); });
    }
    progress write(std::span<const std::byte> from, std::size_t& size) override {
        if (write_failed_) return progress::ended;
        const tls_section here;
        return step([&] { return ::SSL_write_ex(ssl_.get(), from.data(), from.size(), &size); },
                    true);
    }
    void end() noexcept override {
        if (!logged_in_ || write_failed_) return;
        const tls_section here;
        const leaves_no_error at_end;
        ::SSL_shutdown(ssl_.get());
    }
    /// Of a record: its front, or some of what is behind that.
    bool holds_part() noexcept override {
        const tls_section here;
        return ::SSL_has_pending(ssl_.get()) == 1 ||
               std::strcmp(::SSL_rstate_string(ssl_.get()), "RB") == 0;
    }

private:
    friend class tls_library;

    void begin() {
        key_ = std::make_unique<tls_key>(*authkey_);
        const tls_library& library = tls_library::get();
        ssl_.reset(::SSL_new(library.context(side_)));
        BIO* const bytes = ::BIO_new(library.socket());
        if (!ssl_ || !bytes) throw_openssl("SSL_new");
        ::BIO_set_data(bytes, static_cast<stream*>(this));
        ::BIO_set_init(bytes, 1);
        ::SSL_set_bio(ssl_.get(), bytes, bytes);
        SSL_set_app_data(ssl_.get(), this);
        if (side_ == transport_kind::side::server)
            ::SSL_set_accept_state(ssl_.get());
        else
            ::SSL_set_connect_state(ssl_.get());
    }

    /// The host's own use of OpenSSL in this thread must not find our errors.
    struct leaves_no_error {
        leaves_no_error() noexcept { ::ERR_clear_error(); }
        leaves_no_error(const leaves_no_error&) = delete;
        leaves_no_error& operator=(const leaves_no_error&) = delete;
        ~leaves_no_error() { ::ERR_clear_error(); }
    };

    /// The beginning of a login: a record with a ClientHello of a few hundred bytes. OpenSSL makes
    /// room for as much as a stranger announces, so that is looked at first.
    progress receive_front() {
        while (front_size_ < sizeof front_) {
            std::size_t size = 0;
            const auto rest = std::span(front_).subspan(front_size_);
            const progress so_far = receive(std::as_writable_bytes(rest), size);
            if (so_far != progress::done) return so_far;
            front_size_ += size;
        }
        static constexpr std::size_t longest = 2048;
        const std::size_t record = std::size_t{front_[3]} << 8 | front_[4];
        const std::size_t hello =
            std::size_t{front_[6]} << 16 | std::size_t{front_[7]} << 8 | front_[8];
        if (front_[0] != 0x16 || front_[5] != 1 || record > longest || hello > longest)
            throw EndOfFile("the other side does not speak TLS 1.3 with a key");
        return progress::done;
    }

    template <class F>
    progress step(F f, bool writes = false) {
        const leaves_no_error at_end;
        socket_error_ = 0;
        const int result = f();
        if (result > 0) return progress::done;
        switch (::SSL_get_error(ssl_.get(), result)) {
            case SSL_ERROR_WANT_READ:
                return progress::awaits_read;
            case SSL_ERROR_WANT_WRITE:
                return progress::awaits_write;
            case SSL_ERROR_ZERO_RETURN:
                return progress::ended;
            case SSL_ERROR_SYSCALL:  // what was sent to us may still be there
                (writes ? write_failed_ : read_failed_) = true;
                if (socket_error_ != 0) return stream::failed(socket_error_, progress::ended);
                return progress::ended;
            default:
                read_failed_ = write_failed_ = true;
                // Killed, or cut by somebody in between: that looks the same.
                if (::ERR_GET_REASON(::ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
                    return progress::ended;
                if (!logged_in_) fail_login();
                throw EndOfFile(
                    "the connection was cut: its bytes were changed on the way, or are not "
                    "what this side expects (TLS: " +
                    openssl_reason() + ')');
        }
    }
    /// Whether it was the key, or no login at all, which is an end.
    [[noreturn]] void fail_login() {
        const std::string reason = openssl_reason();
        switch (::ERR_GET_REASON(::ERR_peek_last_error())) {
            case SSL_R_BINDER_DOES_NOT_VERIFY:  // at the server: another key under the right name
            case SSL_R_NO_SHARED_CIPHER:        // the same: no key, so it wants a certificate
            case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
            case SSL_R_NO_CERTIFICATE_SET:
            case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:  // at the client: the server says so
            case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:
            case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
            case SSL_R_CERTIFICATE_VERIFY_FAILED:
            case SSL_R_EXCESSIVE_MESSAGE_SIZE:  // it sends a certificate
                throw_other_key(reason);
            default:
                throw EndOfFile("the other side does not speak TLS 1.3 with a key (" + reason +
                                ')');
        }
    }
    [[noreturn]] static void throw_other_key(const std::string& reason) {
        throw AuthenticationError("the other side has another authkey, or none (TLS: " + reason +
                                  ')');
    }

    static constexpr char identity[] = "multiprocessing";
    static tls_stream& of(SSL* ssl) noexcept {
        return *static_cast<tls_stream*>(SSL_get_app_data(ssl));
    }
    SSL_SESSION* make_session() const noexcept {
        static constexpr unsigned char aes128_sha256[] = {0x13, 0x01};
        openssl_ptr<SSL_SESSION, ::SSL_SESSION_free> made(::SSL_SESSION_new());
        const auto key = key_->bytes();
        if (!made || ::SSL_SESSION_set1_master_key(made.get(), key.data(), key.size()) != 1 ||
            ::SSL_SESSION_set_cipher(made.get(), ::SSL_CIPHER_find(ssl_.get(), aes128_sha256)) !=
                1 ||
            ::SSL_SESSION_set_protocol_version(made.get(), TLS1_3_VERSION) != 1)
            return nullptr;
        return made.release();
    }
    static int use_key(SSL* ssl, const EVP_MD*, const unsigned char** id, std::size_t* size,
                       SSL_SESSION** session) {
        *id = reinterpret_cast<const unsigned char*>(identity);
        *size = sizeof identity - 1;
        *session = of(ssl).make_session();
        return *session ? 1 : 0;
    }
    static int find_key(SSL* ssl, const unsigned char* id, std::size_t size,
                        SSL_SESSION** session) {
        *session = size == sizeof identity - 1 && std::memcmp(id, identity, size) == 0
                       ? of(ssl).make_session()
                       : nullptr;
        return 1;
    }

    // The socket, without SIGPIPE.
    static tls_stream& of(BIO* bio) noexcept {
        return *static_cast<tls_stream*>(static_cast<stream*>(::BIO_get_data(bio)));
    }
    template <class F>
    static int transfer(BIO* bio, std::size_t* size, int again, F f) {
        ::BIO_clear_retry_flags(bio);
        const ssize_t n = retry(f);
        if (n > 0) {
            *size = static_cast<std::size_t>(n);
            return 1;
        }
        *size = 0;
        if (n == 0) {
            ::BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
        } else if (errno == EAGAIN) {
            ::BIO_set_flags(bio, again | BIO_FLAGS_SHOULD_RETRY);
        } else {
            of(bio).socket_error_ = errno;
        }
        return 0;
    }
    static int receive_bytes(BIO* bio, char* to, std::size_t room, std::size_t* size) {
        tls_stream& stream = of(bio);
        if (stream.front_taken_ < stream.front_size_) {
            *size = std::min(room, stream.front_size_ - stream.front_taken_);
            std::memcpy(to, stream.front_ + stream.front_taken_, *size);
            stream.front_taken_ += *size;
            ::BIO_clear_retry_flags(bio);
            return 1;
        }
        return transfer(bio, size, BIO_FLAGS_READ,
                        [&] { return ::recv(of(bio).fd(), to, room, 0); });
    }
    static int transmit_bytes(BIO* bio, const char* from, std::size_t length, std::size_t* size) {
        return transfer(bio, size, BIO_FLAGS_WRITE,
                        [&] { return ::send(of(bio).fd(), from, length, MSG_NOSIGNAL); });
    }
    static long control(BIO* bio, int command, long, void*) {
        switch (command) {
            case BIO_CTRL_FLUSH:
                return 1;
            case BIO_CTRL_EOF:
                return ::BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
            default:
                return 0;
        }
    }

    const transport_kind::side side_;
    std::optional<AuthKey> authkey_;  // both until the login is over
    std::unique_ptr<tls_key> key_;
    openssl_ptr<SSL, ::SSL_free> ssl_;
    int socket_error_ = 0;  // errno of the last call on the socket; 0: none, or it would block
    bool logged_in_ = false, read_failed_ = false, write_failed_ = false;
    unsigned char front_[9];                        // at a server: the first bytes of the login,
    std::size_t front_size_ = 0, front_taken_ = 0;  // of which so many came, and OpenSSL has read
};

inline tls_library::tls_library()
    : client_(::SSL_CTX_new(::TLS_client_method())),
      server_(::SSL_CTX_new(::TLS_server_method())),
      socket_(::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket")) {
    if (!client_ || !server_ || !socket_) throw_openssl("SSL_CTX_new");
    ::SSL_CTX_set_psk_use_session_callback(client_.get(), tls_stream::use_key);
    ::SSL_CTX_set_psk_find_session_callback(server_.get(), tls_stream::find_key);
    for (SSL_CTX* const context : {client_.get(), server_.get()}) {
        // The key is bound to SHA-256: a suite with SHA-384, OpenSSL's first choice, ignores it.
        if (::SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
            ::SSL_CTX_set_ciphersuites(
                context, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") != 1 ||
            ::SSL_CTX_set_num_tickets(context, 0) != 1)
            throw_openssl("SSL_CTX_set_ciphersuites");
        ::SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        ::SSL_CTX_set_mode(context,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        // What a client without the key may send before it is refused.
        ::SSL_CTX_set_max_cert_list(context, 1);
    }
    ::BIO_meth_set_read_ex(socket_.get(), tls_stream::receive_bytes);
    ::BIO_meth_set_write_ex(socket_.get(), tls_stream::transmit_bytes);
    ::BIO_meth_set_ctrl(socket_.get(), tls_stream::control);
}

inline constexpr transport_kind tls_transport{
    true, [](own_socket socket, transport_kind::side side, const AuthKey* key) {
        return static_cast<stream*>(new tls_stream(std::move(socket), side, *key));
    }};

}  // namespace detail

/// TLS 1.3, keyed by the authkey.
inline constexpr Transport tls{detail::tls_transport};

}  // namespace multiprocessing
