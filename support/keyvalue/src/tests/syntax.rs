//! The rows of `cli.json`, `syntax`: keys, quotes, brackets, white space.

use std::path::PathBuf;

use super::fixture::{Console, Cpus, Disk, Memory, Mode, Net, Platform, Restore, Seccomp, Window};
use super::{error, read};
use crate::ByteSize;

fn path(text: &str) -> Option<PathBuf> {
    read::<Disk>(text).path
}

#[test]
fn pairs_are_separated_by_commas_in_any_order() {
    let disk: Disk = read("readonly=on,path=/a");
    assert!(disk.readonly);
    assert_eq!(disk.path, Some("/a".into()));
}

#[test]
fn only_the_first_equals_sign_splits() {
    assert_eq!(path("path=/a=b=c"), Some("/a=b=c".into()));
    assert_eq!(path("path==x"), Some("=x".into()));
}

#[test]
fn quotes_protect_and_are_removed() {
    assert_eq!(path("path=\"/a,b\",readonly=on"), Some("/a,b".into()));
    assert_eq!(path("path=\"/a[b\""), Some("/a[b".into()));
    assert_eq!(path("path=/x\"]\"y"), Some("/x]y".into()));
    assert_eq!(path("path=\"say \"\"hi\"\"\""), Some("say \"hi\"".into()));
    assert_eq!(
        read::<Memory>("size=\"1G\",shared=\"on\"").size,
        ByteSize(1 << 30)
    );
}

#[test]
fn brackets_protect_and_stay_in_a_text() {
    assert_eq!(path("path=/a[1,2]"), Some("/a[1,2]".into()));
}

#[test]
fn what_has_no_partner_is_an_error_with_its_position() {
    assert!(error::<Disk>("path=\"/a").starts_with("unbalanced double quote at character 6"));
    assert!(error::<Cpus>("affinity=[0@[1]").starts_with("unbalanced \"[\" at character 10"));
    assert!(error::<Disk>("path=a]").starts_with("unbalanced \"]\" at character 7"));
    assert!(error::<Seccomp>("\"log").starts_with("unbalanced double quote at character 1"));
}

#[test]
fn an_empty_value_is_not_set() {
    assert_eq!(path("path="), None);
    assert_eq!(path("path= "), None);
    assert_eq!(read::<Cpus>("nested=,max_phys_bits="), read::<Cpus>(""));
    assert_eq!(read::<Net>("mac=,ip=,fd=,mtu="), Net::default());
    assert_eq!(read::<Memory>("size=").size, ByteSize(512 << 20));
}

#[test]
fn an_empty_text_in_quotes_is_a_text() {
    assert_eq!(read::<Net>("tap=\"\"").tap, Some(String::new()));
}

#[test]
fn the_last_of_equal_keys_counts() {
    assert_eq!(path("path=/a,path=/b"), Some("/b".into()));
    assert_eq!(path("path=/a,path="), None);
    // What does not count is not looked at.
    assert_eq!(
        read::<Memory>("size=rubbish,size=1G").size,
        ByteSize(1 << 30)
    );
}

#[test]
fn white_space_around_parameters_and_values_goes() {
    let disk: Disk = read("  path = /a b ,\treadonly= on\n");
    assert_eq!(disk.path, Some("/a b".into()));
    assert!(disk.readonly);
    assert_eq!(path("path=\" /a \""), Some(" /a ".into()));
    assert_eq!(
        read::<Platform>("iommu_segments=[ 1 , 2 - 4 ]").iommu_segments,
        Some(vec![1, 2, 3, 4])
    );
}

#[test]
fn an_unknown_key_names_the_nearest_and_all() {
    assert_eq!(
        error::<Memory>("siez=1G"),
        "unknown key \"siez\", did you mean \"size\"? known keys: size, shared, hotplug_method, \
         hotplug_size, hugepage_size"
    );
    assert_eq!(
        error::<Disk>("wce=on"),
        "unknown key \"wce\"; known keys: path, readonly, image_type, lock_granularity"
    );
    assert!(error::<Disk>("PATH=x").contains("did you mean \"path\"?"));
    assert!(error::<Disk>("=x").starts_with("unknown key \"\""));
    assert!(error::<Disk>("\"path\"=x").starts_with("unknown key \"\\\"path\\\"\""));
}

#[test]
fn the_json_name_of_a_key_is_not_accepted_but_understood() {
    assert!(error::<Cpus>("boot_vcpus=2").contains("did you mean \"boot\"?"));
    assert!(error::<Net>("fds=3").contains("did you mean \"fd\"?"));
}

#[test]
fn a_key_alone_says_what_to_write() {
    assert_eq!(
        error::<Disk>("readonly"),
        "key \"readonly\" needs a value: write readonly=on"
    );
    assert_eq!(
        error::<Memory>("size"),
        "key \"size\" needs a value: write size=<size>"
    );
    assert_eq!(
        error::<Platform>("uuid"),
        "key \"uuid\" needs a value: write uuid=<string>"
    );
    assert!(error::<Disk>("readonyl").contains("did you mean \"readonly\"?"));
}

#[test]
fn nothing_between_commas_is_an_error() {
    assert!(error::<Disk>("path=/a,,readonly=on").contains("parameter 2"));
    assert!(error::<Disk>("path=/a,").contains("parameter 2"));
    assert!(error::<Disk>(",").contains("parameter 1"));
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(
        error::<Restore>(""),
        "missing key \"source_url\": write source_url=<string>"
    );
    assert_eq!(error::<Restore>("source_url="), error::<Restore>(""));
}

#[test]
fn flags_can_have_defaults_of_their_own() {
    let cpus: Cpus = read("");
    assert_eq!(
        (cpus.boot_vcpus, cpus.max_vcpus, cpus.max_phys_bits),
        (1, 1, 46)
    );
    let cpus: Cpus = read("boot=4");
    assert_eq!((cpus.boot_vcpus, cpus.max_vcpus), (4, 4));
    let cpus: Cpus = read("max=8,boot=4");
    assert_eq!((cpus.boot_vcpus, cpus.max_vcpus), (4, 8));
    // Wins over the default of the type, which is 0.
    assert_eq!(read::<Platform>("").width, 64);
}

#[test]
fn an_alias_is_accepted_and_the_key_itself_wins() {
    let uuid = |text| read::<Platform>(text).system_uuid;
    assert_eq!(uuid("uuid=a").as_deref(), Some("a"));
    assert_eq!(uuid("guid=a").as_deref(), Some("a"));
    assert_eq!(uuid("system_uuid=new,uuid=old").as_deref(), Some("new"));
    assert_eq!(uuid("uuid=old,system_uuid=new").as_deref(), Some("new"));
    assert_eq!(uuid("uuid=old,system_uuid=").as_deref(), Some("old"));
}

#[test]
fn hidden_keys_are_accepted_and_not_suggested() {
    assert!(read::<Disk>("_disable_aio=on").disable_aio);
    let message = error::<Disk>("_disable_aoi=on");
    assert_eq!(
        message,
        "unknown key \"_disable_aoi\"; known keys: path, readonly, image_type, lock_granularity"
    );
}

#[test]
fn members_of_the_json_only_are_no_keys() {
    assert!(error::<Memory>("zones=[]").starts_with("unknown key \"zones\""));
    let expected = "key \"extra\" cannot be set on the command line (it is an object): \
                    use the JSON interface";
    assert_eq!(error::<Memory>("extra=x"), expected);
    assert_eq!(error::<Memory>("extra"), expected);
}

#[test]
fn a_mode_stands_alone_or_has_its_place() {
    assert_eq!(read::<Console>("off").mode, Mode::Off);
    assert_eq!(
        read::<Console>(" tty , id=c").common.id.as_deref(),
        Some("c")
    );
    let console: Console = read("pci_segment=1,file=\"/tmp/a,b\"");
    assert_eq!(console.mode, Mode::File);
    assert_eq!(console.file, Some("/tmp/a,b".into()));
    assert_eq!(console.common.pci_segment, 1);
    assert_eq!(read::<Console>("socket=/s").socket, Some("/s".into()));
    assert_eq!(read::<Console>("pty,pty").mode, Mode::Pty);
    assert_eq!(read::<Console>("file=/a,file=/b").file, Some("/b".into()));
}

#[test]
fn exactly_one_mode_is_given() {
    assert_eq!(
        error::<Console>("id=c"),
        "no mode given: write one of off, pty, tty, null, file=<path>, socket=<path>"
    );
    assert_eq!(
        error::<Console>("off,file=/a"),
        "both \"off\" and \"file\" were given: only one mode is possible"
    );
    assert_eq!(
        error::<Console>("file="),
        "mode \"file\" has an empty value: write file=<path>"
    );
    assert_eq!(error::<Console>("file=\"\""), error::<Console>("file="));
    assert_eq!(
        error::<Console>("file"),
        "mode \"file\" needs a value: write file=<path>"
    );
    assert_eq!(
        error::<Console>("tty=on"),
        "mode \"tty\" takes no value: write tty"
    );
    assert!(error::<Console>("TTY").contains("did you mean \"tty\"?"));
    assert!(error::<Console>("mode=tty").starts_with("unknown key \"mode\""));
}

#[test]
fn a_type_without_keys_is_its_value() {
    assert_eq!(read::<Seccomp>(" Log "), Seccomp::Log);
    assert_eq!(
        error::<Seccomp>("lgo"),
        "value \"lgo\": must be one of true, false, log, errno; did you mean \"log\"?"
    );
    assert_eq!(read::<Vec<u8>>("[1,3-5]"), [1, 3, 4, 5]);
    assert_eq!(read::<ByteSize>("2K"), ByteSize(2048));
    assert_eq!(read::<u16>("80"), 80);
    assert!(read::<bool>("ON"));
    assert!(error::<u16>("").contains("must be a plain decimal number"));
}

#[test]
fn a_type_can_refuse_what_its_keys_are_together() {
    assert_eq!(read::<Window>("last=8").first, Some(7));
    // Either of them could be the wrong one, so neither is blamed.
    let message = error::<Window>("first=8,last=7");
    assert!(
        message.ends_with(" is not valid: the window ends before it starts"),
        "{message}"
    );
    assert!(!message.contains('8'), "{message}");
}
