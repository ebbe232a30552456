use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{Endpoint, ResizeListener, Screen, Stream, announce_resize};

fn is_ringing(listener: &ResizeListener) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn listeners_hear_what_is_announced_until_they_go() {
    let (one, two) = (
        ResizeListener::new().unwrap(),
        ResizeListener::new().unwrap(),
    );
    assert!(!is_ringing(&one));
    announce_resize();
    announce_resize();
    assert!(is_ringing(&one) && is_ringing(&two));
    one.take();
    assert!(!is_ringing(&one) && is_ringing(&two));
    drop(two);
    announce_resize();
    assert!(is_ringing(&one));
}

#[test]
fn a_pseudo_terminals_size_is_what_its_user_says() {
    let stream = Stream::open(&Endpoint::Pty).unwrap();
    let screen = stream.screen().unwrap();
    assert_eq!(screen.size(), (0, 0));
    let user = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(stream.path().unwrap())
        .unwrap();
    let size = Winsize {
        ws_row: 43,
        ws_col: 132,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&user, size).unwrap();
    assert_eq!(screen.size(), (132, 43));
}

#[test]
fn only_terminals_have_one() {
    let folder = tempfile::tempdir().unwrap();
    for endpoint in [
        Endpoint::Null,
        Endpoint::File(folder.path().join("file")),
        Endpoint::Socket(folder.path().join("socket")),
    ] {
        assert!(Stream::open(&endpoint).unwrap().screen().is_none());
    }
    let terminal = Stream::open(&Endpoint::Tty).unwrap().screen();
    assert!(matches!(terminal, Some(Screen::Terminal)));
}
