"""What is used of libnghttp2 (1.43 and later): frames, HPACK and the state of streams are its."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef extern from "<nghttp2/nghttp2.h>":
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_option:
        pass
    ctypedef struct nghttp2_mem:
        pass
    ctypedef struct nghttp2_nv:
        uint8_t *name
        uint8_t *value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_headers:
        nghttp2_frame_hd hd
        int cat
    ctypedef struct nghttp2_rst_stream:
        nghttp2_frame_hd hd
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        nghttp2_frame_hd hd
        int32_t last_stream_id
        uint32_t error_code
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
    ctypedef union nghttp2_data_source:
        int fd
        void *ptr
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        ssize_t (*read_callback)(nghttp2_session *, int32_t, uint8_t *, size_t, uint32_t *, nghttp2_data_source *,
                                 void *) noexcept

    int nghttp2_session_callbacks_new(nghttp2_session_callbacks **callbacks)
    void nghttp2_session_callbacks_set_on_begin_headers_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame *, void *) noexcept)
    void nghttp2_session_callbacks_set_on_header_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame *, const uint8_t *, size_t, const uint8_t *, size_t, uint8_t,
        void *) noexcept)
    void nghttp2_session_callbacks_set_on_invalid_header_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame *, const uint8_t *, size_t, const uint8_t *, size_t, uint8_t,
        void *) noexcept)
    void nghttp2_session_callbacks_set_on_frame_recv_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame *, void *) noexcept)
    void nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame *, int, void *) noexcept)
    void nghttp2_session_callbacks_set_on_begin_frame_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, const nghttp2_frame_hd *, void *) noexcept)
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, uint8_t, int32_t, const uint8_t *, size_t, void *) noexcept)
    void nghttp2_session_callbacks_set_on_stream_close_callback(nghttp2_session_callbacks *, int (*)(
        nghttp2_session *, int32_t, uint32_t, void *) noexcept)

    int nghttp2_option_new(nghttp2_option **option)
    void nghttp2_option_set_no_auto_window_update(nghttp2_option *, int)
    void nghttp2_option_set_no_closed_streams(nghttp2_option *, int)
    void nghttp2_option_set_no_http_messaging(nghttp2_option *, int)
    void nghttp2_option_set_max_outbound_ack(nghttp2_option *, size_t)
    void nghttp2_option_set_max_settings(nghttp2_option *, size_t)
    void nghttp2_option_set_max_deflate_dynamic_table_size(nghttp2_option *, size_t)
    void nghttp2_option_set_peer_max_concurrent_streams(nghttp2_option *, uint32_t)

    int nghttp2_session_server_new3(nghttp2_session **, const nghttp2_session_callbacks *, void *,
                                    const nghttp2_option *, nghttp2_mem *)
    int nghttp2_session_client_new3(nghttp2_session **, const nghttp2_session_callbacks *, void *,
                                    const nghttp2_option *, nghttp2_mem *)
    void nghttp2_session_del(nghttp2_session *)
    ssize_t nghttp2_session_mem_recv(nghttp2_session *, const uint8_t *, size_t)
    ssize_t nghttp2_session_mem_send(nghttp2_session *, const uint8_t **)
    int nghttp2_session_want_read(nghttp2_session *)
    int nghttp2_session_want_write(nghttp2_session *)
    int nghttp2_session_consume(nghttp2_session *, int32_t, size_t)
    int nghttp2_session_consume_stream(nghttp2_session *, int32_t, size_t)
    int nghttp2_session_consume_connection(nghttp2_session *, size_t)
    int nghttp2_session_set_local_window_size(nghttp2_session *, uint8_t, int32_t, int32_t)
    void *nghttp2_session_get_stream_user_data(nghttp2_session *, int32_t)
    int nghttp2_session_set_stream_user_data(nghttp2_session *, int32_t, void *)
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session *)
    uint32_t nghttp2_session_get_remote_settings(nghttp2_session *, int)
    int nghttp2_session_terminate_session(nghttp2_session *, uint32_t)
    int nghttp2_session_resume_data(nghttp2_session *, int32_t)
    int nghttp2_submit_settings(nghttp2_session *, uint8_t, const nghttp2_settings_entry *, size_t)
    int nghttp2_submit_response(nghttp2_session *, int32_t, const nghttp2_nv *, size_t, const nghttp2_data_provider *)
    int32_t nghttp2_submit_request(nghttp2_session *, const void *, const nghttp2_nv *, size_t,
                                   const nghttp2_data_provider *, void *)
    int32_t nghttp2_submit_headers(nghttp2_session *, uint8_t, int32_t, const void *, const nghttp2_nv *, size_t,
                                   void *)
    int nghttp2_submit_trailer(nghttp2_session *, int32_t, const nghttp2_nv *, size_t)
    int nghttp2_submit_rst_stream(nghttp2_session *, uint8_t, int32_t, uint32_t)
    int nghttp2_submit_goaway(nghttp2_session *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t)
    int nghttp2_submit_shutdown_notice(nghttp2_session *)
    int nghttp2_submit_ping(nghttp2_session *, uint8_t, const uint8_t *)

    int NGHTTP2_DATA, NGHTTP2_HEADERS, NGHTTP2_PRIORITY, NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS, NGHTTP2_PING
    int NGHTTP2_GOAWAY, NGHTTP2_WINDOW_UPDATE, NGHTTP2_CONTINUATION
    int NGHTTP2_FLAG_NONE, NGHTTP2_FLAG_END_STREAM, NGHTTP2_FLAG_END_HEADERS, NGHTTP2_FLAG_ACK
    int NGHTTP2_HCAT_REQUEST, NGHTTP2_HCAT_RESPONSE, NGHTTP2_HCAT_HEADERS
    int NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_COPY_VALUE
    uint32_t NGHTTP2_DATA_FLAG_EOF, NGHTTP2_DATA_FLAG_NO_END_STREAM
    int NGHTTP2_ERR_DEFERRED, NGHTTP2_ERR_CALLBACK_FAILURE, NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    int NGHTTP2_ERR_FLOODED, NGHTTP2_ERR_BAD_CLIENT_MAGIC, NGHTTP2_ERR_REFUSED_STREAM, NGHTTP2_ERR_PROTO
    uint32_t NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_REFUSED_STREAM
    uint32_t NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM
    int NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    int NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL
    int NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, NGHTTP2_SETTINGS_ENABLE_PUSH, NGHTTP2_SETTINGS_MAX_FRAME_SIZE


cdef extern from "h2block.h":
    # A block of header fields while HPACK gives them out: lines of HTTP/1.1 text, pseudo-headers apart.
    ctypedef struct fgw_block:
        char *lines
        uint32_t n, cap
        char *pseudo
        uint32_t pseudo_n
        uint32_t method_at, method_n, path_at, path_n, authority_at, authority_n, scheme_at, scheme_n
        uint32_t host_at, host_n, protocol_at, protocol_n
        char *cookie
        uint32_t cookie_n, cookie_cap
        int status
        uint32_t size, limit              # as RFC 9113 6.5.2 counts: 32 more a field
        int count, most
        int over                          # more than the limits: 1 a little, 2 beyond all patience
        int bad                           # malformed
        int32_t stream
        int64_t length                    # Content-Length, when fgw_field_check saw one; else -1
    void fgw_block_begin(fgw_block *b, int32_t stream)
    int fgw_block_add(fgw_block *b, const uint8_t *name, size_t nl, const uint8_t *value, size_t vl)
    int fgw_block_room(char **p, uint32_t *cap, size_t need)      # grows it; -1 without memory
    void fgw_block_free(fgw_block *b)
    size_t fgw_block_request_size(fgw_block *b)
    size_t fgw_block_request(fgw_block *b, const char *method, const char *more, char *o)    # NULL: its own; nothing
    size_t fgw_block_response(fgw_block *b, char *o)              # block.n + 64 bytes at most
    bint fgw_has_trailers(const char *value, size_t n)            # TE says `trailers`


cdef extern from "h2fields.h":
    # What RFC 9113 8 asks of the fields of a request. 0, or -1: the message is malformed.
    int fgw_field_check(fgw_block *b, const uint8_t *name, size_t nl, const uint8_t *value, size_t vl, bint trailer) nogil
    int fgw_request_check(fgw_block *b, bint end) nogil
