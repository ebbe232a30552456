use std::net::TcpListener;
use std::thread;

use libc::{SIGSYS, SYS_getppid, SYS_ioctl, SYS_socket};

use super::*;
use crate::testing::{part, rerun};
use crate::{COMMON, SPAWN};

/// What a test's thread needs to report: nothing more than any thread.
fn common(mode: Mode) -> Filter {
    Filter::compile(mode, &[COMMON]).unwrap()
}

/// Makes a call with up to three arguments; its result or error number.
fn call(number: c_long, arguments: [c_long; 3]) -> Result<c_long, i32> {
    let [a, b, c] = arguments;
    // SAFETY: the tests only make calls that touch no memory, or with a null pointer.
    let result = unsafe { libc::syscall(number, a, b, c) };
    if result >= 0 {
        Ok(result)
    } else {
        Err(io::Error::last_os_error().raw_os_error().unwrap())
    }
}

/// Runs `act` on a thread with the filter.
fn on_thread<T: Send>(filter: &Filter, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let run = || {
            filter.apply().unwrap();
            act()
        };
        scope.spawn(run).join().unwrap()
    })
}

#[test]
fn modes_are_the_words_of_the_command_line() {
    for (word, mode) in [
        ("true", Mode::Trap),
        ("false", Mode::Off),
        ("log", Mode::Log),
        ("errno", Mode::Errno),
    ] {
        assert_eq!(word.parse::<Mode>().unwrap(), mode);
        assert_eq!(mode.to_string(), word);
    }
    let error = "yes".parse::<Mode>().unwrap_err();
    assert!(
        error.to_string().contains("true, false, log or errno"),
        "{error}"
    );
    assert_eq!(Mode::default(), Mode::Trap);
}

#[test]
fn errno_refuses_with_eperm_and_leaves_the_rest() {
    let results = on_thread(&common(Mode::Errno), || {
        (
            call(SYS_getppid, [0; 3]),
            TcpListener::bind("127.0.0.1:0").map(drop),
            vec![1u8; 1 << 20],
        )
    });
    assert_eq!(results.0, Err(libc::EPERM));
    assert_eq!(results.1.unwrap_err().raw_os_error(), Some(libc::EPERM));
    // Only that thread is affected.
    assert!(call(SYS_getppid, [0; 3]).is_ok());
}

#[test]
fn log_lets_the_call_through() {
    let result = on_thread(&common(Mode::Log), || call(SYS_getppid, [0; 3]));
    assert!(result.is_ok());
    // It is a filter nevertheless.
    let status = on_thread(&common(Mode::Log), || {
        std::fs::read_to_string("/proc/thread-self/status").unwrap()
    });
    assert!(status.contains("Seccomp:\t2"), "{status}");
}

#[test]
fn off_is_no_filter() {
    let status = on_thread(&common(Mode::Off), || {
        std::fs::read_to_string("/proc/thread-self/status").unwrap()
    });
    assert!(status.contains("Seccomp:\t0"), "{status}");
    assert!(format!("{:?}", Filter::none()).contains("None"));
}

#[test]
fn arguments_are_checked_by_the_kernel_as_by_our_interpreter() {
    const SET: &[Allow] = &[
        Allow::ioctl(&[libc::TIOCGWINSZ]),
        Allow::arg32(SYS_socket, 0, &[libc::AF_UNIX as u64]),
    ];
    let filter = Filter::compile(Mode::Errno, &[COMMON, SET]).unwrap();
    let [window, queue, unix, inet, mmap_exec] = on_thread(&filter, || {
        let bad_fd = -1;
        let request = |request: u64| call(SYS_ioctl, [bad_fd, request.cast_signed(), 0]);
        [
            request(libc::TIOCGWINSZ),
            request(libc::FIONREAD),
            call(
                SYS_socket,
                [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0],
            ),
            call(
                SYS_socket,
                [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0],
            ),
            call(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into()]),
        ]
    });
    assert_eq!(window, Err(libc::EBADF), "reached the kernel");
    assert_eq!(queue, Err(libc::EPERM));
    assert!(unix.is_ok());
    assert_eq!(inet, Err(libc::EPERM));
    assert_eq!(mmap_exec, Err(libc::EPERM), "no code is made at run time");
}

#[test]
fn a_filtered_thread_starts_narrower_ones() {
    const MORE: &[Allow] = &[Allow::call(SYS_getppid)];
    let parent = Filter::compile(Mode::Errno, &[COMMON, SPAWN, MORE]).unwrap();
    let (parents, childs) = on_thread(&parent, || {
        let child = || {
            common(Mode::Errno).apply().unwrap();
            call(SYS_getppid, [0; 3])
        };
        let child = thread::Builder::new()
            .name("narrower".into())
            .spawn(child)
            .unwrap();
        let child = child.join().unwrap();
        (call(SYS_getppid, [0; 3]), child)
    });
    assert!(parents.is_ok());
    assert_eq!(childs, Err(libc::EPERM));
}

#[test]
fn a_common_thread_can_do_what_threads_do() {
    let text = on_thread(&common(Mode::Trap), || {
        let (sender, receiver) = std::sync::mpsc::channel();
        sender.send("sent").unwrap();
        let map: std::collections::HashMap<_, _> = [(1, receiver.recv().unwrap())].into();
        let big = vec![7u8; 4 << 20];
        thread::sleep(std::time::Duration::from_millis(1));
        let now = std::time::Instant::now();
        eprintln!("a line from a filtered thread at {now:?}");
        format!("{} {}", map[&1], big[1 << 20])
    });
    assert_eq!(text, "sent 7");
}

#[test]
fn a_common_thread_names_a_file_that_is_removed_at_the_end() {
    let named = on_thread(&common(Mode::Errno), || {
        crate::crash::LastAct::remove_file("not/there".as_ref()).map(drop)
    });
    assert!(named.is_ok(), "{named:?}");
}

#[test]
fn trap_ends_the_process() {
    match part().as_deref() {
        None => {
            let ended = rerun("filter::tests::trap_ends_the_process", "trap");
            assert_eq!(ended.signal, Some(SIGSYS), "{ended:?}");
            assert!(!ended.stderr.contains("still here"));
        }
        Some(_) => {
            let _ = on_thread(&common(Mode::Trap), || call(SYS_getppid, [0; 3]));
            eprintln!("still here");
        }
    }
}
