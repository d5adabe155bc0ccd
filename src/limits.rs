//! Every cap, timeout and size of the server, by name, in one place. It is long because it is one table: nobody reads it
//! from end to end, and who looks for a limit knows its name and not the part of the server that it belongs to.
//!
//! A limit that an operator may want to change is also a key of the configuration file; its constant here is then
//! the default. Relations between limits are asserted at compile time at the foot of this file.

use std::time::Duration;

// ---- The channel to an instance (see `wire`) ----

/// Largest datagram on an instance's channel, header included, in bytes. A larger body travels as several.
pub const WIRE_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Largest payload of one `Body` frame, in bytes: leaves room for a head frame in the same datagram.
pub const WIRE_BODY_PIECE_BYTES_MAX: usize = 40 * 1024;
/// Frames that one datagram may hold.
pub const WIRE_FRAMES_PER_MESSAGE_MAX: usize = 64;

// ---- HTTP ----

/// Largest request head (request line and header fields), in bytes: beyond it 431, or 414 when the target alone is.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest request target, in bytes: beyond it 414.
pub const HTTP_TARGET_BYTES_MAX: usize = 8 * 1024;
/// Header fields in one request: beyond it 431.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Default of `limits.max_request_body` in bytes: beyond it 413.
pub const HTTP_BODY_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Largest chunk-size line (size, extensions), in bytes.
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 256;
/// Largest trailer section of a chunked request, in bytes.
pub const HTTP_TRAILER_BYTES_MAX: usize = 4 * 1024;
/// A request head must be complete this long after its first byte: beyond it 408.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A request body must be complete this long after its head: beyond it 408.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection without a request is closed after this long.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that takes no byte of its answer for this long is closed.
pub const HTTP_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an unread request body that are drained after a refusal, before the connection is closed.
pub const HTTP_DRAIN_BYTES_MAX: usize = 256 * 1024;
/// How long that drain may take.
pub const HTTP_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Default of `limits.max_connections`: beyond it an accepted connection gets 503 and is closed.
pub const HTTP_CONNECTIONS_MAX: usize = 8192;
/// Connections beyond `limits.max_connections` that are told so at once; what comes beyond these is closed untold.
pub const HTTP_CONNECTIONS_REFUSED_MAX: usize = 64;
/// A request body must arrive at this average rate, in bytes per second, once its grace has passed: beyond it 408.
pub const HTTP_BODY_RATE_MIN: u64 = 1024;
/// Time that a request body gets beside what [`HTTP_BODY_RATE_MIN`] allows for the bytes that came.
pub const HTTP_BODY_GRACE: Duration = Duration::from_secs(10);
/// Bytes beyond the request being answered that are held for a connection; it is not read from while it has more.
pub const HTTP_PIPELINE_BYTES_MAX: usize = 64 * 1024;
/// A connection's next request is not begun while the client has this many bytes of its answers still to take.
pub const HTTP_OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Answers up to this size, in bytes, are copied behind their head so that one plain write sends both.
pub const HTTP_BODY_COPY_BYTES_MAX: usize = 16 * 1024;
/// Memory set aside for a request body before its bytes come, in bytes: a Content-Length alone buys no more.
pub const HTTP_BODY_RESERVE_BYTES_MAX: usize = 64 * 1024;
/// Chunk extensions of one request body together, in bytes: beyond it 400.
pub const HTTP_CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;

/// A client that has closed its side while it waits for an answer is asked after this long whether it is still there:
/// fast calls of a client that has only half closed are answered without.
pub const HTTP_PRESENCE_PAUSE: Duration = Duration::from_millis(500);
/// Each further pause is so many times as long.
pub const HTTP_PRESENCE_PAUSE_GROWTH: u32 = 8;
/// Times that it is asked about one request. Most clients bear more; Go's takes five interim responses, of which one
/// may be what it has asked for.
pub const HTTP_PRESENCE_ASKED_MAX: u32 = 4;
/// A client of whose kernel nothing was heard for this long is asked by the server's whether it is still there.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// And asked again after this long.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// After so many questions without an answer it is gone.
pub const TCP_KEEPALIVE_PROBES_MAX: u32 = 3;
/// Connections are looked at for passed deadlines this often, so a deadline is kept to within it.
pub const HTTP_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Connections that wait to be accepted: what comes beyond, the kernel drops, and the client tries again after a second.
/// The host's `net.core.somaxconn` may be less.
pub const CONNECTIONS_WAITING_MAX: i32 = 4096;
/// Connections accepted before the front turns to the others.
pub const CONNECTIONS_ACCEPTED_PER_TURN_MAX: usize = 64;
/// Largest body of a request to the API itself, in bytes: the largest code, written as JSON, with its config.
pub const API_BODY_BYTES_MAX: usize = 2 * FUNCTION_CODE_BYTES_MAX + 256 * 1024;
/// Requests of one connection that the front handles before it turns to the others.
pub const HTTP_REQUESTS_PER_TURN_MAX: usize = 64;
/// Requests of all connections that the front handles in one turn; beyond it each connection gets one.
pub const FRONT_REQUESTS_PER_TURN_MAX: usize = 256;
/// Sockets that the front attends to in one turn.
pub const FRONT_SOCKETS_PER_TURN_MAX: usize = 256;
/// Sockets that the front attends to before it hears the other threads: instances that have answered are not to wait
/// for their next calls until a whole turn of refusals is over.
pub const FRONT_SOCKETS_PER_STEP_MAX: usize = 32;
/// Default of `limit` in listings.
pub const API_PAGE_DEFAULT: usize = 100;
/// After a change that could not be stored, `/readyz` says so for this long, unless one is stored before.
pub const STORE_TROUBLE_TOLD: Duration = Duration::from_secs(30);
/// Largest `limit` in listings.
pub const API_PAGE_MAX: usize = 1000;
/// Reports of other threads that the front hears before it turns to its sockets.
pub const FRONT_EVENTS_PER_STEP_MAX: usize = 256;

// ---- Functions ----

/// Longest function name, in bytes.
pub const FUNCTION_NAME_BYTES_MAX: usize = 63;
/// Largest source of one function, in bytes.
pub const FUNCTION_CODE_BYTES_MAX: usize = 1024 * 1024;
/// Functions that one server holds.
pub const FUNCTIONS_MAX: usize = 10_000;
/// Environment variables of one function.
pub const FUNCTION_ENVIRONMENT_MAX: usize = 256;
/// All names and values of one function's environment together, in bytes.
pub const FUNCTION_ENVIRONMENT_BYTES_MAX: usize = 64 * 1024;
/// Longest `handler` of a function, in bytes.
pub const FUNCTION_HANDLER_BYTES_MAX: usize = 200;
/// Longest name of an image, in bytes, with tag and digest: a name alone may have 255.
pub const IMAGE_REFERENCE_BYTES_MAX: usize = 512;
/// Images that a server process tells apart: a number is never given twice, since instances may still have it.
pub const IMAGES_MAX: usize = 16 * 1024;
const _: () = assert!(IMAGES_MAX > FUNCTIONS_MAX, "every stored function may have one of its own");
/// Requirements in one function's `dependencies`.
pub const FUNCTION_DEPENDENCIES_MAX: usize = 256;
/// Longest single requirement, in bytes.
pub const FUNCTION_DEPENDENCY_BYTES_MAX: usize = 512;
/// Smallest `timeout` of a function, in milliseconds.
pub const FUNCTION_TIMEOUT_MS_MIN: u64 = 1;
/// Default of a function's `timeout`, in milliseconds.
pub const FUNCTION_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Largest `timeout` of a function, in milliseconds.
pub const FUNCTION_TIMEOUT_MS_MAX: u64 = 900_000;
/// Range of `X-Faas-Timeout`, in milliseconds. No function's `timeout` is as long as its end: a caller that waits for
/// anything else, too, need not know those.
pub const CALLER_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=3_600_000_000_000;
/// Default of a function's `memory`, in bytes.
pub const FUNCTION_MEMORY_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Smallest `memory` of a function, in bytes: the interpreter itself needs a dozen megabytes.
pub const FUNCTION_MEMORY_BYTES_MIN: u64 = 32 * 1024 * 1024;
/// Largest `memory` of a function, in bytes.
pub const FUNCTION_MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024 * 1024;
/// Default of a function's `cpu_limit`, in thousandths of a core.
pub const FUNCTION_CPU_MILLIS_DEFAULT: u32 = 1000;
/// Smallest `cpu_limit`, in thousandths of a core.
pub const FUNCTION_CPU_MILLIS_MIN: u32 = 10;
/// Largest `cpu_limit`, in thousandths of a core.
pub const FUNCTION_CPU_MILLIS_MAX: u32 = 1_024_000;
/// Default of a function's `max_instances`.
pub const FUNCTION_INSTANCES_DEFAULT: u32 = 10;
/// Largest `max_instances` of a function.
pub const FUNCTION_INSTANCES_MAX: u32 = 1000;
/// Largest `max_invocations_per_instance` of a function; `unlimited` is beyond it.
pub const FUNCTION_INVOCATIONS_PER_INSTANCE_MAX: u32 = 1_000_000_000;
/// Tasks (processes and threads) of one instance.
pub const INSTANCE_TASKS_MAX: u32 = 64;
/// Largest answer of a function, in bytes: beyond it 502.
pub const RESPONSE_BODY_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Largest header block of a function's answer, in bytes.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Longest name of a function's exception that is passed on, in bytes; longer ones are cut.
pub const ERROR_KIND_BYTES_MAX: usize = 256;
/// Longest message of a function's exception that is passed on, in bytes; longer ones are cut.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4 * 1024;

// ---- Configuration ----

/// Largest configuration file, in bytes.
pub const CONFIG_FILE_BYTES_MAX: usize = 1024 * 1024;
/// What the file may unfold to when its aliases are followed: its values, and the bytes of their texts.
pub const CONFIG_UNFOLDED_MAX: usize = 4 * CONFIG_FILE_BYTES_MAX;
/// Characters of a wrong value that an error message shows.
pub const GIVEN_SHOWN_CHARS_MAX: usize = 60;
/// Longest path in the configuration, in bytes: the kernel's own limit.
pub const CONFIG_PATH_BYTES_MAX: usize = 4096;
/// Entries of `system.runtimes`.
pub const RUNTIMES_MAX: usize = 32;
/// Longest path of a Unix socket, in bytes: what the kernel's address holds beside the byte that ends it.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest `system.container_security_label`, in bytes.
pub const SECURITY_LABEL_BYTES_MAX: usize = 255;
/// Largest file that `system.registry_auth` names, in bytes.
pub const REGISTRY_AUTH_BYTES_MAX: u64 = 64 * 1024;
/// Words of `system.image_scan`, the program included.
pub const IMAGE_SCAN_WORDS_MAX: usize = 64;
/// Longest word of `system.image_scan`, in bytes.
pub const IMAGE_SCAN_WORD_BYTES_MAX: usize = 4096;
/// Entries of `system.api_keys`.
pub const API_KEYS_MAX: usize = 1000;
/// Shortest API key in the configuration, in bytes: a shorter one can be guessed.
pub const API_KEY_BYTES_MIN: usize = 16;
/// Longest API key, in bytes.
pub const API_KEY_BYTES_MAX: usize = 512;
/// Longest name of an API key, in bytes.
pub const API_KEY_NAME_BYTES_MAX: usize = 64;

// ---- Defaults and ranges of settings, as far as they are not above ----

/// Default of `system.api_gateway_port`.
pub const PORT_DEFAULT: u16 = 8000;
/// Default of `system.max_concurrent_functions`.
pub const SLOTS_DEFAULT: usize = 1000;
/// Largest `system.max_concurrent_functions`.
pub const SLOTS_MAX: usize = 65_536;
/// Largest `system.workers`.
pub const WORKERS_MAX: usize = 256;
/// Largest `system.pool_size`.
pub const POOL_SIZE_MAX: usize = 1024;
/// Largest `system.container_pool_size`.
pub const CONTAINER_POOL_SIZE_MAX: usize = 64;
/// Default of `system.image_scan_timeout`.
pub const IMAGE_SCAN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// Range of `system.image_scan_timeout`, in milliseconds.
pub const IMAGE_SCAN_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1000..=3_600_000;
/// Default of `system.image_scan_max_age`: databases of vulnerabilities are made anew every few hours.
pub const IMAGE_SCAN_MAX_AGE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Range of `system.image_scan_max_age`, in milliseconds; 0 keeps nothing.
pub const IMAGE_SCAN_MAX_AGE_MS: std::ops::RangeInclusive<u64> = 0..=30 * 24 * 3_600_000;
/// A refusal by a scan is believed for this long at most: it may have been a failure of the command's own.
pub const IMAGE_REFUSAL_MAX_AGE: Duration = Duration::from_secs(600);
/// A scan that failed is not tried again for the same image for this long: each of its names may be waited for.
pub const IMAGE_SCAN_FAILURE_MAX_AGE: Duration = Duration::from_secs(10);
/// What scans have said that is kept, each about one image: the oldest goes.
pub const IMAGE_VERDICTS_MAX: usize = 1024;
/// Largest file of what scans have said, in bytes: each has the end of a report, in which every byte may have become six.
pub const IMAGE_VERDICTS_BYTES_MAX: u64 = (IMAGE_VERDICTS_MAX * (6 * IMAGE_SCAN_OUTPUT_BYTES_MAX + 512)) as u64;
/// Longest text of how a scan ended, in bytes: a signal, its name, and that there is a core.
pub const IMAGE_SCAN_STATUS_BYTES_MAX: usize = 64;
/// What the log and the answer have of the output of an image's scan, in bytes: its end.
pub const IMAGE_SCAN_OUTPUT_BYTES_MAX: usize = 4096;
/// Default of `system.sandbox_uid_base`.
pub const SANDBOX_UID_BASE_DEFAULT: u32 = 2_000_000_000;
/// Smallest `system.sandbox_uid_base`: below are the users of the host.
pub const SANDBOX_UID_BASE_MIN: u32 = 100_000;
/// Largest `system.sandbox_uid_base`: leaves room for every slot below 2^31, since container engines know no larger ids.
pub const SANDBOX_UID_BASE_MAX: u32 = 2_147_000_000;
/// Default of `system.cold_start_timeout`.
pub const COLD_START_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Range of `system.cold_start_timeout`, in milliseconds.
pub const COLD_START_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=600_000;
/// Default of `system.warm_instance_ttl`.
pub const WARM_INSTANCE_TTL_DEFAULT: Duration = Duration::from_secs(600);
/// Range of `idle_ttl` and `system.warm_instance_ttl`, in milliseconds.
pub const WARM_INSTANCE_TTL_MS: std::ops::RangeInclusive<u64> = 10..=7 * 24 * 3_600_000;
/// Keep-alive of an `adaptive` function while its pattern is not known.
pub const IDLE_UNSURE_TTL: Duration = Duration::from_secs(600);
/// Width of a bin of the histogram of idle times.
pub const IDLE_BIN: Duration = Duration::from_secs(60);
/// Bins of the histogram of idle times: four hours.
pub const IDLE_BINS: usize = 240;
/// Idle times that must be known before a pattern is believed.
pub const IDLE_TIMES_MIN: u64 = 5;
/// Instances of a function whose idle times are told apart; the last one stands for all beyond.
pub const IDLE_LEVELS_MAX: usize = 16;
/// What was learnt about idle times counts half after this long.
pub const IDLE_HALF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Idle times that a forecast is made from.
pub const IDLE_FORECAST_TIMES: usize = 16;
/// Longest period, in calls, that a forecast looks for.
pub const IDLE_FORECAST_LAG_MAX: usize = 7;
/// Range of `system.shutdown_grace`, in milliseconds.
pub const SHUTDOWN_GRACE_MS: std::ops::RangeInclusive<u64> = 0..=3_600_000;
/// Range of `system.drain_timeout`, in milliseconds.
pub const DRAIN_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 0..=3_600_000;
/// Largest `limits.max_connections`.
pub const HTTP_CONNECTIONS_LIMIT_MAX: usize = 100_000;
/// Range of `limits.max_request_body` and `limits.max_response_body`, in bytes: a body is held in memory whole.
pub const BODY_BYTES_LIMIT: std::ops::RangeInclusive<u64> = 1024..=256 * 1024 * 1024;
/// Largest `limits.max_log_entries`.
pub const LOG_RING_ENTRIES_LIMIT_MAX: usize = 100_000;

// ---- Taking over from another server ----

/// User ids of each of the two servers that share a state directory during a takeover: one for every slot there may be,
/// and as many for looks at code.
pub const SANDBOX_UIDS_PER_SIDE: u32 = 2 * SLOTS_MAX as u32;
const _: () = assert!(SANDBOX_UID_BASE_MAX + 2 * SANDBOX_UIDS_PER_SIDE <= i32::MAX as u32, "engines take no more");
/// Largest datagram between two servers.
pub const TAKEOVER_MESSAGE_BYTES_MAX: usize = 192 * 1024;
const _: () = assert!(6 * LOG_ENTRY_BYTES_MAX + 4096 < TAKEOVER_MESSAGE_BYTES_MAX, "an entry in JSON, all escaped");
const _: () = assert!(HTTP_PIPELINE_BYTES_MAX + 64 * 1024 < TAKEOVER_MESSAGE_BYTES_MAX, "what a connection holds");
/// Who connects must have said who it is after this long.
pub const TAKEOVER_GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// A successor must be ready after this long. It holds nothing up meanwhile, but no other can be heard.
pub const TAKEOVER_PREPARATION_TIMEOUT: Duration = Duration::from_secs(600);
/// A takeover that has held changes for this long is broken off.
pub const TAKEOVER_HOLD_TIMEOUT: Duration = Duration::from_secs(10);
/// A successor must take a log entry of its predecessor within this time, or the predecessor writes it.
pub const LOG_ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(5);
/// A successor waits this long for its sandboxes, and then goes on if there are any.
pub const TAKEOVER_READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A successor waits this long for the server before its predecessor to end.
pub const TAKEOVER_SIDE_TIMEOUT: Duration = Duration::from_secs(60);
/// A predecessor that has hung up must be gone after this long to count as dead.
pub const TAKEOVER_DEATH_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that a successor takes over from its predecessor before it turns to the others.
pub const TAKEOVER_CONNECTIONS_PER_TURN_MAX: usize = 64;

// ---- Keys ----

/// Longest bearer token, in bytes: a longer one is malformed and costs no digest.
pub const AUTH_TOKEN_BYTES_MAX: usize = 512;

// ---- The store ----

/// Versions of one function that the store keeps, the current one included.
pub const FUNCTION_VERSIONS_KEPT: u64 = 10;
/// A statement waits this long for another reader or writer of the database (a backup, an inspection).
pub const STORE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

// ---- Scheduling ----

/// Invocations of one function that may wait: beyond it 429.
pub const QUEUE_PER_FUNCTION_MAX: usize = 1024;
/// Default of `limits.max_queue_wait`: a call that has waited this long for an instance is given up, with 429 when its
/// function has all the instances that it may have, else with 503.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Range of `limits.max_queue_wait`, in milliseconds.
pub const QUEUE_WAIT_MS: std::ops::RangeInclusive<u64> = 1..=FUNCTION_TIMEOUT_MS_MAX;
/// A function may hold one more call only while it holds fewer than so many times the calls that the server has places
/// for: so one that floods leaves a quarter of `limits.max_invocations` free. Beyond it 429.
pub const INVOCATIONS_SHARE: usize = 3;
/// On a full server, an idle instance is left for at least this long to a function that has no more than the one that
/// needs room.
pub const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// With more functions than slots, an instance gives way after this long to a function that has none.
pub const SHARE_QUANTUM: Duration = Duration::from_secs(1);
/// Longest time, in seconds, after which a refused client is told to come back: however long the queue is, guesses
/// beyond it are worth nothing.
pub const RETRY_AFTER_MAX_S: u64 = 60;
/// Invocations that the server holds, waiting and running: beyond it 503.
pub const INVOCATIONS_MAX: usize = 16_384;
/// Blanks that wait for a function, default of `system.pool_size`.
pub const POOL_SIZE_DEFAULT: usize = 8;
/// Containers that wait for a function, default of `system.container_pool_size`: each takes more than a process does.
pub const CONTAINER_POOL_SIZE_DEFAULT: usize = 2;
/// Invocations that may be in one instance's pipe, the running one included.
pub const PIPE_DEPTH_MAX: usize = 16;
/// Invocations are piped behind another only while the expected wait in the pipe stays below this.
pub const PIPE_WAIT_MAX: Duration = Duration::from_millis(1);
/// An invocation that has waited in a pipe for this long is taken back and queued again.
pub const PIPE_STALL: Duration = Duration::from_millis(10);
/// A blank must answer this long after it was asked for.
pub const BLANK_START_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a blank that is a container: an engine with much to do takes seconds for one. Longer than whoever makes it
/// waits for the engine, so that the reason is heard.
pub const CONTAINER_BLANK_TIMEOUT: Duration = Duration::from_secs(45);
const _: () = assert!(BLANK_START_TIMEOUT.as_nanos() <= CONTAINER_BLANK_TIMEOUT.as_nanos());
// In the queue of those to be started, and then in the making: the reason is heard before the scheduler gives up.
const _: () = assert!(2 * CONTAINER_START_TIMEOUT.as_nanos() < CONTAINER_BLANK_TIMEOUT.as_nanos());
/// A draining instance is killed after this long, default of `system.drain_timeout`.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// A stopping server ends what still runs after this long, default of `system.shutdown_grace`.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// A server that was asked to stop goes on for this long as if it were not, but for new connections and for telling its
/// clients that theirs end: requests that are on their way arrive. At most `shutdown_grace`.
pub const SHUTDOWN_LINGER: Duration = Duration::from_secs(1);
/// What the last answers are given to be taken, once `shutdown_grace` is over.
pub const SHUTDOWN_ANSWERS_TIMEOUT: Duration = Duration::from_millis(500);
/// Forks after which a zygote is replaced by a fresh one, so that nothing can pile up in it.
pub const ZYGOTE_FORKS_MAX: u32 = 10_000;
/// Empty network namespaces that wait for the next instances. Each takes about 300 kB of the kernel's memory.
pub const NETWORKS_IDLE: usize = 8;
/// Blanks that one zygote is asked for at once; it makes them one after the other.
pub const ZYGOTE_SPAWNS_AT_ONCE_MAX: usize = 4;
/// Jobs in the supervisor's queue.
pub const SUPERVISOR_QUEUE_MAX: usize = 16_384;
/// A sandboxed look at code must be over after this long.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Sandboxes that a look at code is given when the first ones fail, for no fault of the code.
pub const CHECK_SANDBOXES_MAX: usize = 3;
/// A killed instance must be gone after this long.
pub const KILL_WAIT: Duration = Duration::from_secs(5);
/// Datagrams that a worker reads from one instance before it turns to the others.
pub const WORKER_READS_PER_TURN_MAX: usize = 64;
/// Raw output that a worker reads at once, in bytes: what a pipe holds by default.
pub const WORKER_OUTPUT_READ_BYTES: usize = 64 * 1024;
/// A function whose top-level code fails is not started again for this long; doubles up to the next limit.
pub const START_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two failed starts.
pub const START_BACKOFF_MAX: Duration = Duration::from_secs(10);

// ---- The sandbox ----

/// Size of an instance's /tmp, in bytes. It also counts against the instance's memory.
pub const SANDBOX_TMP_BYTES: u64 = 64 * 1024 * 1024;
/// Size of an instance's /dev/shm, in bytes. It also counts against the instance's memory.
pub const SANDBOX_SHM_BYTES: u64 = 64 * 1024 * 1024;
/// Files and directories that /tmp, and again /dev/shm, may hold.
pub const SANDBOX_TMP_INODES: u64 = 16 * 1024;
/// Descriptors that one process of an instance may have open.
pub const SANDBOX_OPEN_FILES: u64 = 256;
/// Largest file that an instance may write, in bytes: also what a sparse file may pretend to be.
pub const SANDBOX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Stack of an instance's main thread, in bytes.
pub const SANDBOX_STACK_BYTES: u64 = 8 * 1024 * 1024;
/// An instance waits this long for the process that forked it to end, in milliseconds.
pub const SANDBOX_PARENT_EXIT_TIMEOUT_MS: u32 = 5_000;
/// Size of the root file system, which holds the shim and mount points only, in bytes.
pub const SANDBOX_TREE_BYTES: u64 = 4 * 1024 * 1024;
/// Files and directories of the root file system.
pub const SANDBOX_TREE_INODES: u64 = 1024;
/// An interpreter must say what it is within this time, in which it imports a good part of its library: 0.3 s on a
/// usual machine, more than 10 s on an emulated one under load.
pub const RUNTIME_PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Size of the file system that holds an instance's own files of /etc, in bytes.
pub const SANDBOX_ETC_BYTES: u64 = 128 * 1024;
/// A file of the host's /etc that is shown to functions in the host's network, in bytes: a longer one is cut, since it
/// travels in a message.
pub const SANDBOX_ETC_FILE_BYTES_MAX: usize = 16 * 1024;
/// What an interpreter may print when it is asked what it is, in bytes.
pub const RUNTIME_PROBE_BYTES_MAX: usize = 256 * 1024;
/// Calls are not piped to a function for this long after it wrote to descriptor 1 or 2 itself.
pub const RAW_OUTPUT_QUIET: Duration = Duration::from_secs(10);
/// What the scheduler asked of a worker (kill, take back) and got no answer to is asked again after this long.
pub const WORKER_ASK_AGAIN: Duration = Duration::from_secs(1);
/// After so many failures in a row to make a blank, calls that need one fail at once.
pub const BLANK_FAILURES_MAX: u32 = 3;

// ---- Containers ----

/// Containers that an engine is asked to start at once: it has locks of its own, and more would only wait there.
pub const CONTAINER_STARTS_MAX: usize = 4;
/// A container must be a blank this long after its order was placed.
pub const CONTAINER_START_TIMEOUT: Duration = Duration::from_secs(20);
/// How a container ended must be told this long after it has, or it stays unknown.
pub const CONTAINER_EXIT_WAIT: Duration = Duration::from_secs(3);
/// Containers that an engine is asked to remove at once: what is more urgent must not wait behind them.
pub const CONTAINER_REMOVALS_MAX: usize = 8;
/// A container that was killed, and not for want of memory as far as the engine knows, is looked at so often again.
pub const CONTAINER_EXIT_LOOKS_MAX: u32 = 5;
/// A removal that failed is tried again after this long; doubles up to the next limit.
pub const CONTAINER_REMOVAL_RETRY: Duration = Duration::from_millis(200);
/// Longest pause between two tries to remove a container.
pub const CONTAINER_REMOVAL_RETRY_MAX: Duration = Duration::from_secs(10);
/// At the end of the server, how long it waits for the next of its containers to go.
pub const CONTAINERS_STOP_WAIT: Duration = Duration::from_secs(2);
/// And how long for the process that would end them if it were killed.
pub const HEIR_END_WAIT: Duration = Duration::from_secs(1);
/// The heir tries again after this long what the kernel did not do.
pub const HEIR_PAUSE: Duration = Duration::from_millis(10);
/// What was asked on a connection that was cut is asked again after this long.
pub const ENGINE_ASK_AGAIN: Duration = Duration::from_millis(50);
/// And no more when it was asked first this long ago.
pub const ENGINE_ASK_PATIENCE: Duration = Duration::from_secs(5);
/// An engine is away when it was asked so often in a row how it is and every connection was cut.
pub const ENGINE_FAILURES_MAX: u32 = 4;
/// Jobs that may wait for the containers' thread: those of all instances, and of the control threads.
pub const CONTAINERS_QUEUE_MAX: usize = SUPERVISOR_QUEUE_MAX;
/// How often an engine that is well is asked how it is.
pub const ENGINE_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked for containers that nobody knows: made by an engine that hung, after they were given up.
pub const ENGINE_SWEEP: Duration = Duration::from_secs(15);
/// And how long that answer may take.
pub const ENGINE_LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one that is met for the first time, or again, may take to say what it is: Podman asks the package manager.
pub const ENGINE_HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How often one that is away is looked for.
pub const ENGINE_RETRY: Duration = Duration::from_secs(1);
/// An image must have been pulled after this long.
pub const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// Images that are pulled at once.
pub const IMAGE_PULLS_MAX: usize = 11;
/// Images that are got ready at once for deployments that wait for them: pulled, or scanned.
pub const IMAGE_PREPARATIONS_MAX: usize = 7;
/// Volumes of an image that the refusal of it names.
pub const IMAGE_VOLUMES_NAMED_MAX: usize = 8;
/// What a container may write to its own output until its instance has a pipe of the server's, in bytes: the engine keeps
/// so much of it. A whole number of kibibytes.
pub const CONTAINER_LOG_BYTES_MAX: u64 = 64 * 1024;
/// How much sooner than others the kernel kills a process of a container when the whole machine is out of memory, from
/// -1000 to 1000: sooner than the engine and the server.
pub const CONTAINER_OOM_SCORE_ADJ: i32 = 500;
/// Layers of an image whose progress is followed while it is pulled; engines take some 128.
pub const IMAGE_LAYERS_MAX: usize = 512;

// ---- Outbound connections ----

/// Connections that the broker is making for one instance at once: beyond it EAGAIN.
pub const EGRESS_CONNECTS_PER_INSTANCE_MAX: usize = 64;
/// Connections that are being made for all instances at once: beyond it EAGAIN for those that have some.
pub const EGRESS_CONNECTS_MAX: usize = 1024;
/// Connections that an instance can always have under way, whatever others do.
pub const EGRESS_CONNECTS_RESERVED: usize = 4;
/// Connect calls of one instance that are looked at at once, when it has made none for a while.
pub const EGRESS_CALLS_BURST_MAX: u32 = 1000;
/// Connect calls of one instance that are looked at in a second, in the long run: the next ones wait. Each costs the
/// server some 100 us, which are not charged to the instance, and the host a port and an entry of its connection tracking,
/// for a minute or two after the connection's end: of ports there are some 28,000 for one destination, and of entries
/// often 65,536 for all of the host.
pub const EGRESS_CALLS_PER_SECOND_MAX: u32 = 100;
/// A connection must be made within this time, if the function sets no shorter one: beyond it ETIMEDOUT.
pub const EGRESS_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A name server must take a connection within this time, or the next one is tried.
pub const EGRESS_NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections whose caller may have died meanwhile are looked at this often.
pub const EGRESS_SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Stack of the thread that connects for one instance, in bytes.
pub const EGRESS_STACK_BYTES: usize = 256 * 1024;
/// Entries of `system.outbound_allow`.
pub const OUTBOUND_ALLOW_MAX: usize = 256;

// ---- The container engine ----

/// Largest answer of a container engine, in bytes, but for lists and streams. What it says of one container repeats the
/// profile of system calls.
pub const ENGINE_REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Largest list of containers or images, in bytes.
pub const ENGINE_LIST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest line of an engine's events, or of the progress of a pull, in bytes.
pub const ENGINE_LINE_BYTES_MAX: usize = 64 * 1024;
/// Characters of an engine's message that are passed on; longer ones are cut.
pub const ENGINE_TEXT_CHARS_MAX: usize = 300;
/// An engine must have answered a call after this long.
pub const ENGINE_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An engine that pulls an image must say something at least this often.
pub const ENGINE_PULL_SILENCE_MAX: Duration = Duration::from_secs(120);
/// Connections to the engine's socket at once.
pub const ENGINE_CONNECTIONS_MAX: usize = 16;
/// Of these, so many may carry streams, which can last for ever: the rest is for calls that end.
pub const ENGINE_STREAMS_MAX: usize = 12;
/// Calls that wait for a connection: beyond it a call fails at once.
pub const ENGINE_QUEUE_MAX: usize = 1024;
/// Largest head of an engine's answer, in bytes.
pub const ENGINE_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one answer.
pub const ENGINE_HEADERS_MAX: usize = 64;
/// Interim answers (1xx) before the answer.
pub const ENGINE_INTERIM_MAX: usize = 8;
/// Largest chunk-size line (size, extensions) of an engine's answer, in bytes.
pub const ENGINE_CHUNK_LINE_BYTES_MAX: usize = 256;
/// Largest trailer section of an engine's answer, in bytes.
pub const ENGINE_TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Body of an answer that is an error, in bytes, if good answers to the call may not be larger.
pub const ENGINE_ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes read from the engine at once.
pub const ENGINE_READ_BYTES: usize = 64 * 1024;
/// Reads from one connection to the engine before the others have their turn.
pub const ENGINE_READS_PER_TURN_MAX: usize = 8;
/// While so much of what the engine said is not taken, nothing more is read. Each is at most [`ENGINE_READ_BYTES`] of a
/// stream, or one whole answer.
pub const ENGINE_NEWS_MAX: usize = 256;
/// An engine whose queue of connections is full is asked again after this long: nothing tells when it has room.
pub const ENGINE_CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// A connection to the engine that carries nothing is closed after this long.
pub const ENGINE_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

// ---- Queues between threads ----

/// Jobs in the queue of one worker.
pub const WORKER_QUEUE_MAX: usize = INVOCATIONS_MAX + 4096;
/// Events in the queue to the front thread.
pub const FRONT_QUEUE_MAX: usize = INVOCATIONS_MAX + 16_384;
/// Threads that do the slow work of the API; each may hold one sandbox to look at code.
pub const CONTROL_THREADS: usize = 4;
/// Jobs of the API that wait for a control thread: beyond it 503.
pub const CONTROL_QUEUE_MAX: usize = 256;
/// Bytes of the bodies of deployments that wait for an image, which is for minutes: beyond it 503.
pub const PREPARATION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Lines that wait for the log writer: beyond it lines are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 8192;
/// Bytes of function log that wait for the log writer: beyond it entries are dropped and counted.
pub const LOG_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The function-log thread lets entries gather for this long before it takes them, so that a chatty function costs one
/// wake-up and one write per pause and not one per line.
pub const LOG_BATCH_PAUSE: Duration = Duration::from_millis(2);
/// A control thread waits this long for the function-log thread.
pub const LOG_QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// A reload waits this long for the front to have taken the new settings, before it says that it is done.
pub const RELOAD_FRONT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is told to the supervisor of this process (systemd) is lost when it takes longer than this to take it.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// The watchdog looks at every vital thread this often, and rings its doorbell.
pub const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);
/// A vital thread that has not finished a turn for this long hangs, and the server ends.
pub const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(10);
/// What the watchdog has to say must be said within this time, whole seconds: then a signal ends the server.
pub const WATCHDOG_LAST_WORDS: Duration = Duration::from_secs(2);
/// A control thread that is at one job for this long is named in the log. A look at code may take three sandboxes, each
/// with its own limit.
pub const CONTROL_JOB_SLOW: Duration = Duration::from_secs(60);
/// The server's own log gets this long to reach standard error when the server ends.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

// ---- Function logs ----

/// Bytes of log that one invocation may write; the rest is dropped and a note says so.
pub const LOG_INVOCATION_BYTES_MAX: usize = 256 * 1024;
/// Log entries that one invocation may make; the rest is dropped and a note says so. An entry costs the server far more
/// than its text when that is short, and one call must not fill the queue of them: without this, a quarter of a million
/// line ends were as many entries.
pub const LOG_INVOCATION_ENTRIES_MAX: usize = 4 * 1024;
/// Longest single log entry, in bytes; longer lines are cut.
pub const LOG_ENTRY_BYTES_MAX: usize = 16 * 1024;
/// Entries of one function kept in memory, default of `limits.max_log_entries`.
pub const LOG_RING_ENTRIES_MAX: usize = 1000;
/// Bytes of one function's entries kept in memory.
pub const LOG_RING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all functions' entries kept in memory: beyond it those not used for longest are read from disk again.
pub const LOG_MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one function's log file before it is rotated; one older file is kept.
pub const LOG_FILE_BYTES_MAX: u64 = 1024 * 1024;

const _: () = assert!(WIRE_BODY_PIECE_BYTES_MAX + HTTP_HEAD_BYTES_MAX + 1024 <= WIRE_MESSAGE_BYTES_MAX);
const _: () = assert!(LOG_ENTRY_BYTES_MAX < WIRE_BODY_PIECE_BYTES_MAX);
const _: () = assert!(WIRE_BODY_PIECE_BYTES_MAX + RESPONSE_HEADER_BYTES_MAX + 1024 <= WIRE_MESSAGE_BYTES_MAX);
const _: () = assert!(HTTP_TARGET_BYTES_MAX < HTTP_HEAD_BYTES_MAX);
const _: () = assert!(SLOTS_DEFAULT <= SLOTS_MAX && POOL_SIZE_DEFAULT <= POOL_SIZE_MAX);
const _: () = assert!(CONTAINER_POOL_SIZE_DEFAULT <= CONTAINER_POOL_SIZE_MAX);
const _: () = assert!(QUEUE_PER_FUNCTION_MAX <= INVOCATIONS_MAX);
const _: () = assert!(HTTP_HEAD_BYTES_MAX <= u16::MAX as usize, "offsets into a request head are 16 bits wide");
const _: () = assert!(HTTP_HEAD_BYTES_MAX < HTTP_PIPELINE_BYTES_MAX, "or a long head could never be read to its end");
const _: () = assert!(FUNCTION_MEMORY_BYTES_MIN <= FUNCTION_MEMORY_BYTES_DEFAULT);
const _: () = assert!(WORKER_QUEUE_MAX >= INVOCATIONS_MAX);
// What memory holds of a function's log can be had again from its two files, unless it is mostly control characters,
// which JSON writes as six bytes each.
const _: () = assert!(LOG_RING_BYTES_MAX as u64 <= LOG_FILE_BYTES_MAX);
const _: () = assert!(LOG_RING_BYTES_MAX < LOG_MEMORY_BYTES_MAX);
const _: () =
    assert!(LOG_RING_ENTRIES_MAX < LOG_INVOCATION_ENTRIES_MAX && LOG_INVOCATION_ENTRIES_MAX <= LOG_QUEUE_MAX / 2);
// JSON may write one byte as six (`\u001f`): the longest line still fits a file.
const _: () = assert!(8 * LOG_ENTRY_BYTES_MAX as u64 <= LOG_FILE_BYTES_MAX);
const _: () = assert!(FUNCTION_VERSIONS_KEPT >= 1);
// The end of the server, in which workers and the supervisor do not turn, must not look like a hang.
const _: () = assert!(KILL_WAIT.as_nanos() * 2 <= WATCHDOG_TIMEOUT.as_nanos());
const _: () = assert!(WATCHDOG_INTERVAL.as_nanos() * 5 <= WATCHDOG_TIMEOUT.as_nanos());
const _: () = assert!(PIPE_DEPTH_MAX >= 1 && PIPE_DEPTH_MAX < 31);
const _: () = assert!(PIPE_WAIT_MAX.as_nanos() <= PIPE_STALL.as_nanos());
const _: () = assert!(EGRESS_CONNECTS_PER_INSTANCE_MAX <= EGRESS_CONNECTS_MAX);
const _: () = assert!(EGRESS_CONNECTS_RESERVED <= EGRESS_CONNECTS_PER_INSTANCE_MAX);
const _: () = assert!(EGRESS_CALLS_PER_SECOND_MAX >= 1 && EGRESS_CALLS_PER_SECOND_MAX <= EGRESS_CALLS_BURST_MAX);
const _: () = assert!(EGRESS_NAME_SERVER_TIMEOUT.as_nanos() < EGRESS_CONNECT_TIMEOUT.as_nanos());
const _: () = assert!(IMAGE_PREPARATIONS_MAX + CONTROL_THREADS <= IMAGE_PULLS_MAX, "a reload pulls on these itself");
const _: () = assert!(IMAGE_PULLS_MAX < ENGINE_STREAMS_MAX, "the stream of events has a place whatever is pulled");
const _: () =
    assert!(ENGINE_STREAMS_MAX < ENGINE_CONNECTIONS_MAX, "calls that end are never held up by those that do not");
