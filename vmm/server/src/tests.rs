use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use api::{Request, Respond, Response};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use telemetry::event;
use tempfile::TempDir;

use super::*;

/// Longest that anything here takes on a busy machine.
const SECONDS: Duration = Duration::from_secs(20);

/// Answers with what it was asked; `/hold` is answered when the test says so.
#[derive(Default)]
struct Echo {
    held: Mutex<Vec<Respond>>,
    seen: Mutex<Option<mpsc::Sender<()>>>,
}

impl Handler for Echo {
    fn serve(&self, request: Request, respond: Respond) {
        if request.path == "/hold" {
            self.held.lock().unwrap().push(respond);
            if let Some(seen) = &*self.seen.lock().unwrap() {
                seen.send(()).unwrap();
            }
            return;
        }
        let body = format!(
            "{:?} {} {} {}",
            request.method,
            request.path,
            request.body.len(),
            request.descriptors.len()
        );
        respond(match request.path.as_str() {
            "/none" => Response::json(204, Vec::new()),
            "/events" => events(),
            _ => Response::json(200, body.into_bytes()),
        });
    }
}

/// Events, if not too many listen.
fn events() -> Response {
    match event::subscribe() {
        Some(events) => Response {
            status: 200,
            content: api::Content::Lines,
            body: api::Body::Events(events),
        },
        None => Response::json(503, Vec::new()),
    }
}

struct Bench {
    server: Server,
    echo: Arc<Echo>,
    path: PathBuf,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let echo = Arc::new(Echo::default());
        let listener = Listener::bind(&path).unwrap();
        let handler: Arc<dyn Handler> = Arc::clone(&echo) as Arc<dyn Handler>;
        // The C library asks this of a thread that has a heap of its own; the monitor's have none.
        let heap = &[Allow::call(libc::SYS_openat)];
        let filter =
            Filter::compile(sandbox::Mode::Trap, &[sandbox::COMMON, SYSCALLS, heap]).unwrap();
        let server = Server::start(listener, handler, filter).unwrap();
        Self {
            server,
            echo,
            path,
            _folder: folder,
        }
    }

    fn connect(&self) -> UnixStream {
        connect(&self.path)
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SECONDS)).unwrap();
    stream
}

/// Reads one answer: status and body.
fn answer(stream: &mut UnixStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the connection ended");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

fn ask(stream: &mut UnixStream, text: &str) -> (u16, String) {
    stream.write_all(text.as_bytes()).unwrap();
    answer(stream)
}

fn get(stream: &mut UnixStream, path: &str) -> (u16, String) {
    ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

/// Whether the other end has closed the connection.
fn is_closed(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn a_connection_is_kept_for_more_requests() {
    let bench = Bench::new();
    let mut client = bench.connect();
    for _ in 0..3 {
        assert_eq!(get(&mut client, "/a"), (200, "Get /a 0 0".into()));
    }
    let put = "PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(&mut client, put), (200, "Put /b 5 0".into()));
    assert_eq!(get(&mut client, "/none"), (204, String::new()));
    assert_eq!(get(&mut client, "/a?q=1").1, "Get /a?q=1 0 0");
    bench.server.stop();
    assert!(!bench.path.exists());
}

#[test]
fn old_clients_are_served_once() {
    let bench = Bench::new();
    let mut client = bench.connect();
    assert_eq!(ask(&mut client, "GET /a HTTP/1.0\r\n\r\n").0, 200);
    assert!(is_closed(&client));
}

#[test]
fn a_body_has_its_limit() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let put = |len: usize| format!("PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
    client.write_all(put(51_200).as_bytes()).unwrap();
    client.write_all(&vec![b' '; 51_200]).unwrap();
    assert_eq!(answer(&mut client), (200, "Put /b 51200 0".into()));
    let mut client = bench.connect();
    client.write_all(put(51_201).as_bytes()).unwrap();
    // The server may answer and close before it has all of it.
    let _ = client.write_all(&vec![b' '; 51_201]);
    let (status, body) = answer(&mut client);
    assert_eq!(status, 400);
    assert!(
        body.starts_with("{\"error\":") && body.contains("51200"),
        "{body}"
    );
}

#[test]
fn what_is_not_http_or_not_ours_is_refused() {
    let bench = Bench::new();
    for (text, status) in [
        ("nonsense\r\n\r\n", 400),
        (
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            400,
        ),
        ("DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ] {
        let mut client = bench.connect();
        assert_eq!(ask(&mut client, text).0, status, "{text}");
    }
    // A head that does not end.
    let mut client = bench.connect();
    let line = format!("X: {}\r\n", "y".repeat(1000));
    let long = format!("GET /a HTTP/1.1\r\n{}", line.repeat(100));
    let _ = client.write_all(long.as_bytes());
    let mut text = String::new();
    let _ = client.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
}

#[test]
fn idle_and_half_open_connections_make_room_for_new_ones() {
    let bench = Bench::new();
    let idle: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = bench.connect();
            stream.write_all(b"GET /a HTT").unwrap();
            stream
        })
        .collect();
    let mut client = bench.connect();
    assert_eq!(get(&mut client, "/a").0, 200);
    assert!(is_closed(&idle[0]));
}

#[test]
fn when_all_connections_are_being_served_a_new_one_is_refused() {
    let bench = Bench::new();
    let (seen, is_seen) = mpsc::channel();
    *bench.echo.seen.lock().unwrap() = Some(seen);
    let mut busy: Vec<UnixStream> = (0..10)
        .map(|_| {
            let mut stream = bench.connect();
            stream
                .write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            is_seen.recv_timeout(SECONDS).unwrap();
            stream
        })
        .collect();
    let mut refused = bench.connect();
    assert_eq!(answer(&mut refused).0, 503);
    for respond in bench.echo.held.lock().unwrap().drain(..) {
        respond(Response::json(204, Vec::new()));
    }
    for client in &mut busy {
        assert_eq!(answer(client).0, 204);
    }
    assert_eq!(get(&mut bench.connect(), "/a").0, 200);
}

#[test]
fn what_is_being_served_at_the_end_gets_its_answer() {
    let bench = Bench::new();
    let (seen, is_seen) = mpsc::channel();
    *bench.echo.seen.lock().unwrap() = Some(seen);
    let mut client = bench.connect();
    client
        .write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    is_seen.recv_timeout(SECONDS).unwrap();
    let respond = bench.echo.held.lock().unwrap().pop().unwrap();
    let mut idle = bench.connect();
    assert_eq!(get(&mut idle, "/a").0, 200);
    respond(Response::json(204, Vec::new()));
    bench.server.stop();
    assert_eq!(answer(&mut client).0, 204);
    assert!(is_closed(&idle));
    assert!(!bench.path.exists());
}

#[test]
fn descriptors_come_with_their_request() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let files: Vec<std::fs::File> = (0..3)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = b"PUT /fds HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let sent = sendmsg(
        &client,
        &[IoSlice::new(text)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), text.len());
    assert_eq!(answer(&mut client), (200, "Put /fds 2 3".into()));
    // They were that request's.
    assert_eq!(get(&mut client, "/a"), (200, "Get /a 0 0".into()));
}

#[test]
fn one_monitor_at_a_path_and_what_an_ended_one_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api");
    // Left by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Listener::bind(&path).unwrap();
    let error = Listener::bind(&path).unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert!(UnixStream::connect(&path).is_ok());
    drop(first);
    assert!(!path.exists());
    assert!(lock_path(&path).exists());
    drop(Listener::bind(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = Listener::bind(&path).unwrap_err();
    assert!(matches!(error, Error::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(matches!(
        Listener::bind(&folder.path().join("none/api")).unwrap_err(),
        Error::Lock { .. }
    ));
}

#[test]
fn a_descriptor_must_be_a_socket_that_listens() {
    use std::os::fd::IntoRawFd;
    let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
    assert!(matches!(
        Listener::inherit(file).unwrap_err(),
        Error::Descriptor { .. }
    ));
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(Listener::inherit(one.into_raw_fd()).is_err());
    let folder = tempfile::tempdir().unwrap();
    let socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    Listener::inherit(socket.into_raw_fd()).unwrap();
}

/// Reads up to and with this text, and says what there was before it.
fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(text.as_bytes()) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the stream ended");
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

/// One test, as all listeners of the process are in one list.
#[test]
fn events_come_as_they_happen_until_the_server_ends() {
    let bench = Bench::new();
    let request = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut listeners: Vec<UnixStream> = (0..event::MAX_SUBSCRIPTIONS)
        .map(|_| {
            let mut stream = bench.connect();
            stream.write_all(request).unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").to_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(
                head.contains("content-type: application/x-ndjson"),
                "{head}"
            );
            stream
        })
        .collect();
    assert_eq!(get(&mut bench.connect(), "/events").0, 503);
    // Who listens is not in the way of others, and is not put out for them.
    for _ in 0..20 {
        assert_eq!(get(&mut bench.connect(), "/a").0, 200);
    }
    event::send(event::Event::new("test", "first", &[("id", &"a\nb")]));
    for stream in &mut listeners {
        let line = read_until(stream, "}\n");
        assert!(
            line.contains(r#""event":"first","properties":{"id":"a\nb"}}"#),
            "{line}"
        );
    }
    // One that has gone makes room, at the latest when something happens.
    drop(listeners.pop());
    let deadline = std::time::Instant::now() + SECONDS;
    let mut another = loop {
        event::send(event::Event::new("test", "more", &[]));
        let mut stream = bench.connect();
        stream.write_all(request).unwrap();
        if read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200") {
            break stream;
        }
        assert!(std::time::Instant::now() < deadline);
    };
    event::send(event::Event::new("test", "last", &[]));
    bench.server.stop();
    // The last chunk, of length zero.
    let rest = read_until(&mut another, "\r\n0\r\n\r\n");
    assert!(rest.contains("last"), "{rest}");
}

#[test]
fn bytes_are_answered_without_a_listener() {
    let handler: Arc<dyn Handler> = Arc::new(Echo::default());
    let ask = |text: &str| String::from_utf8(exchange(&handler, text.as_bytes()).unwrap()).unwrap();
    let two = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n";
    let both = ask(two);
    assert!(
        both.contains("Get /a 0 0") && both.contains("Get /b 0 0"),
        "{both}"
    );
    assert_eq!(ask(""), "");
    assert!(ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    // A body that does not come is not waited for when the client has said all it will say.
    let half = ask("PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
    assert!(
        half.is_empty() || half.starts_with("HTTP/1.1 400"),
        "{half}"
    );
}
