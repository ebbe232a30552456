//! `fork`: further machines of one that goes on, in monitors that wait for them or are started here.
//!
//! The monitor itself can start no process: its filter of system calls has no `execve`, and would be inherited.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::http::{Answer, Connection};
use crate::request::Request;

pub(crate) const NAME: &str = "fork";

/// The monitor's program, if no other one is named: it is beside this one.
const MONITOR: &str = "cloud-hypervisor";
/// How long a monitor may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Make further VMs of this one, while it goes on")
        .arg(
            Arg::new("children")
                .value_name("socket")
                .help("API sockets of the monitors that take the new VMs, each without a VM")
                .required(true)
                .num_args(1..)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("devices")
                .long("devices")
                .value_name("file")
                .help(
                    "File with JSON: for each new VM, in order, an object with what is other in its devices: \
                     [{\"_disk0\": {\"path\": \"/copy\"}}]",
                )
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("frozen|copied")
                .help("Share memory until it is written (needs shared=on), or copy it while the VM stands still")
                .value_parser(["frozen", "copied"]),
        )
        .arg(switch("resume", "Let the new VMs run at once"))
        .arg(switch("start", "Start the monitors first; their logs are beside their sockets, with .log"))
        .arg(
            Arg::new("monitor")
                .long("monitor")
                .value_name("program")
                .help("The monitor's program for --start, if it is not the one beside this program")
                .requires("start")
                .value_parser(value_parser!(PathBuf)),
        )
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).help(help);
    arg.action(ArgAction::SetTrue)
}

pub(crate) fn run(socket: &Path, arguments: &ArgMatches) -> Result<Answer> {
    let children = arguments.get_many::<PathBuf>("children");
    let children: Vec<&PathBuf> = children.into_iter().flatten().collect();
    let body = body(&children, arguments)?;
    let started = if arguments.get_flag("start") {
        start(&children, arguments.get_one::<PathBuf>("monitor"))?
    } else {
        Started(Vec::new())
    };
    let request = Request::put("vm.fork", &body);
    let answer = Connection::open(socket)?.ask(request)?.success()?;
    started.keep();
    Ok(answer)
}

fn body(children: &[&PathBuf], arguments: &ArgMatches) -> Result<Value> {
    let devices = match arguments.get_one::<PathBuf>("devices") {
        Some(path) => devices(path, children.len())?,
        None => vec![Map::new(); children.len()],
    };
    let children = children.iter().zip(devices);
    let children =
        children.map(|(socket, devices)| json!({"api_socket": socket, "devices": devices}));
    let memory = arguments.get_one::<String>("memory").map(String::as_str);
    Ok(json!({
        "children": children.collect::<Vec<_>>(),
        "memory_mode": memory.map(|mode| if mode == "copied" { "Copied" } else { "Frozen" }),
        "resume": arguments.get_flag("resume"),
    }))
}

fn devices(path: &Path, count: usize) -> Result<Vec<Map<String, Value>>> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read(path).map_err(failed)?;
    let devices: Vec<Map<String, Value>> =
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    if devices.len() == count {
        return Ok(devices);
    }
    Err(Error::Conflict(
        "fork: --devices has a list with another number of objects than there are sockets",
    ))
}

/// Monitors that were started here. Dropping them ends them: they have no VM yet, or nobody knows of theirs.
struct Started(Vec<Child>);

impl Started {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(sockets: &[&PathBuf], program: Option<&PathBuf>) -> Result<Started> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Start { path, source }
    };
    let program = match program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .map_err(failed(Path::new(MONITOR)))?
            .with_file_name(MONITOR),
    };
    let mut started = Started(Vec::with_capacity(sockets.len()));
    for socket in sockets {
        let path = socket.display();
        let child = Process::new(&program)
            .args(["--api-socket", &format!("path={path}")])
            .args(["--log-file", &format!("{path}.log")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C here is not meant for it.
            .process_group(0)
            .spawn();
        started.0.push(child.map_err(failed(&program))?);
    }
    let deadline = Instant::now() + PATIENCE;
    for (socket, child) in sockets.iter().zip(&mut started.0) {
        while let Err(source) = UnixStream::connect(socket) {
            let ended = child.try_wait().is_ok_and(|ended| ended.is_some());
            if ended || Instant::now() > deadline {
                return Err(failed(socket)(source));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_a_child_for_each_socket() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"[{"d": {"path": "/1"}}, {}]"#).unwrap();
        let file = file.path().to_str().unwrap();
        let words = [
            "fork",
            "/a",
            "/b",
            "--devices",
            file,
            "--memory",
            "copied",
            "--resume",
        ];
        let matches = command().try_get_matches_from(words).unwrap();
        let (one, other) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let body = body(&[&one, &other], &matches).unwrap();
        let expected = json!({
            "children": [
                {"api_socket": "/a", "devices": {"d": {"path": "/1"}}},
                {"api_socket": "/b", "devices": {}},
            ],
            "memory_mode": "Copied",
            "resume": true,
        });
        assert_eq!(body, expected);
        assert!(super::body(&[&one], &matches).is_err());
    }
}
