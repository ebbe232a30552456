//! The monitor on a session's bus of its own, asked by systemd's client. Each method alone is tested in `dbus`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kernel;

use std::process::Command;

/// What a user of the session would type: `$0` is the monitor, `$1` a machine's configuration.
const SESSION: &str = r#"
"$0" --dbus-service-name org.example.vm --dbus-object-path /org/example/vm &
monitor=$!
call() { busctl --user call org.example.vm /org/example/vm org.cloudhypervisor.DBusApi1 "$@"; }
for i in $(seq 200); do call VmmPing >/dev/null 2>&1 && break; sleep 0.05; done
call VmmPing
call VmCreate s "$(cat "$1")"
call VmBoot
call VmInfo
call VmPause
call VmPause || echo "status $?"
call VmResume
call VmmShutdown
wait $monitor
echo "end $?"
"#;

#[test]
fn a_session_creates_boots_and_ends_a_machine() {
    let folder = tempfile::tempdir().unwrap();
    // cli; hlt; jmp to the latter.
    let kernel = kernel::write(folder.path(), &[0xfa, 0xf4, 0xeb, 0xfd]);
    let machine = format!(
        r#"{{"payload":{{"kernel":"{}"}},"memory":{{"size":67108864}},"console":{{"mode":"Off"}}}}"#,
        kernel.display()
    );
    let config = folder.path().join("config");
    std::fs::write(&config, machine).unwrap();
    let mut session = Command::new("dbus-run-session");
    session.args(["--", "sh", "-c", SESSION]);
    session
        .arg(env!("CARGO_BIN_EXE_cloud-hypervisor"))
        .arg(&config);
    // busctl finds a session's bus by its address or by the user's folder.
    session.current_dir(&folder).env_remove("XDG_RUNTIME_DIR");
    let said = session.output().unwrap();
    let out = String::from_utf8_lossy(&said.stdout).replace('\\', "");
    let err = String::from_utf8_lossy(&said.stderr);
    for part in ["\"dbus_api\"", "\"state\":\"Running\"", "status 1", "end 0"] {
        assert!(out.contains(part), "{part}: {out}{err}");
    }
    assert!(
        err.contains("Error from API") && err.contains("paused"),
        "{err}"
    );
}
