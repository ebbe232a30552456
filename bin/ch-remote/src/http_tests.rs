use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

fn request(body: Option<&str>) -> Request {
    Request {
        method: Method::Put,
        endpoint: "vm.boot",
        body: body.map(|body| body.as_bytes().to_vec()),
        descriptors: Vec::new(),
    }
}

/// What the client makes of an answer, after which the monitor closes.
fn answered(text: &[u8]) -> Result<Answer> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(text).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    Connection(BufReader::new(ours)).ask(request(None))
}

fn body(text: &[u8]) -> Vec<u8> {
    answered(text).unwrap().body
}

#[test]
fn bodies_of_all_lengths() {
    assert_eq!(
        body(b"HTTP/1.1 200 \r\nServer: x\r\ncontent-length: 2\r\n\r\n{}more"),
        b"{}"
    );
    assert_eq!(
        body(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        ),
        b"abcde"
    );
    assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nall of it"), b"all of it");
    assert_eq!(body(b"HTTP/1.1 204 No Content\r\n\r\n"), b"");
    assert_eq!(
        body(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        b"x"
    );
}

#[test]
fn what_is_not_http_is_an_error() {
    for text in [
        &b""[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 x\r\n\r\n",
        b"HTTP/1.1 999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 \xff\r\n\r\n",
    ] {
        let answer = answered(text);
        assert!(matches!(answer, Err(Error::Malformed(_))), "{answer:?}");
    }
    let many = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(200)].concat();
    assert!(matches!(answered(&many), Err(Error::Malformed(_))));
    let long = [b"HTTP/1.1 200 ".to_vec(), vec![b'x'; 20_000]].concat();
    assert!(matches!(answered(&long), Err(Error::Malformed(_))));
}

#[test]
fn refusals_have_the_monitors_chain() {
    let refused = |text: &[u8]| match answered(text).unwrap().success() {
        Err(Error::Server { status, chain }) => (status, chain),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(b"HTTP/1.1 404 \r\nContent-Length: 9\r\n\r\n[\"a\",\"b\"]"),
        (404, vec!["a".into(), "b".into()])
    );
    assert_eq!(
        refused(b"HTTP/1.1 400 \r\nContent-Length: 0\r\n\r\n"),
        (400, vec![])
    );
    assert_eq!(
        refused(b"HTTP/1.1 400 \r\nContent-Length: 13\r\n\r\n{\"error\":\"e\"}"),
        (400, vec!["{\"error\":\"e\"}".into()])
    );
}

#[test]
fn a_request_is_what_a_server_reads_and_descriptors_come_with_it() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut kept, sent) = UnixStream::pair().unwrap();
    let mut request = request(Some("{\"a\":1}"));
    request.descriptors = vec![sent.into()];
    Connection(BufReader::new(ours)).send(request).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 1024];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let message = recvmsg(&theirs, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut received = control.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let mut received = UnixStream::from(received.next().unwrap());
    assert_eq!(
        String::from_utf8_lossy(&bytes[..message.bytes]),
        "PUT /api/v1/vm.boot HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: \
         application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
    );
    received.write_all(b"it is the same").unwrap();
    drop(received);
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    assert_eq!(text, "it is the same");
}

#[test]
fn a_stream_is_handed_on_until_somebody_has_enough() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n";
        client.write_all(head).unwrap();
        client
    });
    let mut pieces = Vec::new();
    let mut connection = Connection::open(&path).unwrap();
    connection
        .follow(request(None), |piece| {
            pieces.push(piece.to_vec());
            pieces.len() < 2
        })
        .unwrap();
    assert_eq!(pieces, [b"ab".to_vec(), b"c".to_vec()]);
    drop(server.join().unwrap());
}

#[test]
fn a_refused_connection_names_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody");
    assert!(matches!(
        Connection::open(&path),
        Err(Error::Connect { .. })
    ));
    drop(UnixListener::bind(&path).unwrap());
    let error = Connection::open(&path).unwrap_err();
    assert!(error.chain()[0].contains("nobody"), "{error:?}");
    assert_eq!(error.chain().len(), 2);
}
