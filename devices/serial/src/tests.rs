use super::*;

fn read(text: &str) -> SerialConfig {
    keyvalue::from_str(text).unwrap()
}

#[test]
fn each_mode_is_an_endpoint() {
    assert_eq!(read("tty").endpoint(), Ok(Endpoint::Tty));
    assert_eq!(read("null").endpoint(), Ok(Endpoint::Null));
    assert_eq!(read("pty").endpoint(), Ok(Endpoint::Pty));
    assert_eq!(
        read("file=/tmp/a").endpoint(),
        Ok(Endpoint::File("/tmp/a".into()))
    );
    assert_eq!(
        read("socket=/tmp/s").endpoint(),
        Ok(Endpoint::Socket("/tmp/s".into()))
    );
    assert!(Serial::is_off(&read("off")));
    assert!(!Serial::is_off(&read("null")));
}

#[test]
fn what_is_not_a_mode_is_refused() {
    for text in ["", "stdout", "tty,pty", "iobase=0x3f8", "file="] {
        assert!(
            keyvalue::from_str::<SerialConfig>(text).is_err(),
            "{text:?}"
        );
    }
    let json = serde_json::from_str::<SerialConfig>(r#"{"mode":"File"}"#).unwrap();
    assert_eq!(
        json.endpoint().unwrap_err().to_string(),
        "--serial: file= needs a path"
    );
}

#[test]
fn json_is_that_of_the_api() {
    let json = serde_json::to_string(&read("file=/tmp/log")).unwrap();
    assert_eq!(json, r#"{"file":"/tmp/log","mode":"File"}"#);
    assert_eq!(
        serde_json::to_string(&Serial::by_default().unwrap()).unwrap(),
        r#"{"mode":"Null"}"#
    );
}

#[test]
fn the_files_it_opens_are_declared() {
    assert_eq!(
        Serial::paths(&read("file=/dev/null")),
        [("/dev/null".into(), Access::ReadWrite)]
    );
    assert_eq!(Serial::paths(&read("tty")), []);
}
