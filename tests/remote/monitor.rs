//! A monitor, and the real `ch-remote` that talks to it.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::payload::Payload;
use testkit::{Exit, Vm, env};

/// Longest that anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A monitor that serves the API, and files for its guest.
pub(crate) struct Monitor {
    pub(crate) vm: Vm,
    pub(crate) folder: TempDir,
}

/// How `ch-remote` ended, and what it printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// The program.
pub(crate) fn program() -> Command {
    Command::new(env::remote().unwrap())
}

/// Runs it without a socket.
pub(crate) fn alone(words: &[&str]) -> Said {
    finish(&mut spawn(program().args(words)))
}

fn spawn(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    piped.stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of a program whose standard input nobody writes to any more.
fn finish(child: &mut Child) -> Said {
    drop(child.stdin.take());
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.unwrap().read_to_string(&mut text).unwrap();
            text
        })
    };
    let out = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let err = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let deadline = Instant::now() + LIMIT;
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("ch-remote does not end");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    Said { code, out, err }
}

impl Monitor {
    /// Without a machine; it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// As [`Monitor::start`], with further options, which may name files in the folder.
    pub(crate) fn start_with(options: impl FnOnce(&Path) -> Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("path={}", folder.path().join("api").display());
        let builder = Vm::builder().arg("--api-socket", socket);
        let builder = options(folder.path())
            .into_iter()
            .fold(builder, |builder, (name, value)| builder.arg(name, value));
        let vm = builder.spawn().unwrap();
        let monitor = Self { vm, folder };
        let deadline = Instant::now() + LIMIT;
        while monitor.remote(&["ping"]).code != 0 {
            assert!(Instant::now() < deadline, "{}", monitor.vm.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        monitor
    }

    /// With a guest that runs `payload`.
    pub(crate) fn boot(payload: Payload) -> Self {
        let monitor = Self::start();
        monitor.act(&["create", &monitor.machine(payload)]);
        monitor.act(&["boot"]);
        monitor
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A file with the configuration of a machine that runs `payload`.
    pub(crate) fn machine(&self, payload: Payload) -> String {
        payload
            .elf()
            .write(Path::new(&self.path("kernel")))
            .unwrap();
        let machine = json!({
            "payload": {"kernel": self.path("kernel")},
            "cpus": {"boot_vcpus": 1, "max_vcpus": 2},
            "memory": {"size": 64 << 20},
            "console": {"mode": "Off"},
            "debug_console": {"mode": "File", "file": self.path("debug"), "iobase": 0xe9},
        });
        let path = self.path("machine.json");
        std::fs::write(&path, machine.to_string()).unwrap();
        path
    }

    /// The program with the socket and these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        command.arg("--api-socket").arg(self.socket()).args(words);
        command
    }

    pub(crate) fn remote(&self, words: &[&str]) -> Said {
        finish(&mut spawn(&mut self.command(words)))
    }

    /// `add-net` of a device with these queues of a tap as its descriptors.
    pub(crate) fn with_descriptors(
        &self,
        queues: &[std::sync::Arc<tap::Queue>],
        net: &str,
    ) -> Said {
        // Copies that the program inherits, and any other that is started at this moment.
        let copies: Vec<_> = queues
            .iter()
            .map(|queue| {
                let copy = rustix::io::dup(&**queue).unwrap();
                rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
                copy
            })
            .collect();
        let numbers: Vec<_> = copies
            .iter()
            .map(|copy| copy.as_raw_fd().to_string())
            .collect();
        let words = format!("{net},fd=[{}]", numbers.join(","));
        self.remote(&["add-net", &words])
    }

    /// How many descriptors of taps the monitor has open.
    pub(crate) fn taps(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.vm.pid());
        let links = std::fs::read_dir(folder).unwrap();
        links
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.ends_with("net/tun"))
            .count()
    }

    /// The same with something on standard input.
    pub(crate) fn remote_with(&self, words: &[&str], input: &str) -> Said {
        let mut child = spawn(&mut self.command(words));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        finish(&mut child)
    }

    /// What works has nothing to say.
    pub(crate) fn act(&self, words: &[&str]) {
        let done = Said {
            code: 0,
            out: String::new(),
            err: String::new(),
        };
        assert_eq!(self.remote(words), done, "{words:?}");
    }

    /// What is refused: the chain that people read.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let said = self.remote(words);
        assert_eq!(
            (said.code, said.out.as_str()),
            (1, ""),
            "{words:?}: {said:?}"
        );
        let heading = "Error: ch-remote exited with the following chain of errors:\n  0: ";
        let chain = said.err.strip_prefix(heading);
        chain.unwrap_or_else(|| panic!("{said:?}")).to_owned()
    }

    pub(crate) fn state(&self) -> String {
        let info = self.remote(&["info"]).json();
        info["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn printed(&self) -> usize {
        std::fs::read(self.path("debug")).unwrap_or_default().len()
    }

    /// Waits until the guest has printed more than this many bytes.
    pub(crate) fn wait_printed(&self, more_than: usize) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let count = self.printed();
            if count > more_than {
                return count;
            }
            assert!(Instant::now() < deadline, "{count} bytes");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn end(mut self) {
        let said = self.remote(&["shutdown-vmm"]);
        assert_eq!((said.code, said.out.as_str()), (0, "\n"), "{said:?}");
        let exit = self.vm.wait_exit(LIMIT.as_secs()).unwrap();
        assert_eq!(exit, Exit::Code(0), "{}", self.vm.stderr());
    }
}

/// Prints for ever.
pub(crate) fn busy() -> Payload {
    Payload::new().forever(|body| body.print_e9(".").spin(1000))
}
