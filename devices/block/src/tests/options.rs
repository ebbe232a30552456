//! What a user says.

use ::device::AnyKind;
use serde_json::json;

use super::*;

fn facts() -> Facts {
    Facts {
        boot_vcpus: 4,
        ..Facts::default()
    }
}

#[test]
fn the_defaults_are_those_of_the_reference() {
    let expected = json!({
        "path": "/vm/a.raw",
        "readonly": false,
        "direct": false,
        "num_queues": 1,
        "queue_size": 128,
        "vhost_user": false,
        "backing_files": false,
        "sparse": true,
        "image_type": "Unknown",
        "lock_granularity": "ByteRange",
        "disable_io_uring": false,
        "disable_aio": false,
        "pci_segment": 0
    });
    assert_eq!(Block.read_flag("path=/vm/a.raw").unwrap(), expected);
    let config: DiskConfig = serde_json::from_value(json!({ "path": "/vm/a.raw" })).unwrap();
    assert_eq!(serde_json::to_value(config).unwrap(), expected);
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    let flag = "path=/vm/a.raw,readonly=on,direct=on,num_queues=2,queue_size=256,bw_size=1,bw_refill_time=2,\
                ops_size=3,ops_one_time_burst=4,ops_refill_time=5,queue_affinity=[0@[0-2],1@[3]],serial=s,\
                backing_files=on,sparse=off,image_type=raw,lock_granularity=full,_disable_io_uring=on,\
                _disable_aio=on,id=d,pci_segment=1,pci_device_id=2";
    let expected = json!({
        "path": "/vm/a.raw",
        "readonly": true,
        "direct": true,
        "num_queues": 2,
        "queue_size": 256,
        "vhost_user": false,
        "rate_limiter_config": {
            "bandwidth": { "size": 1, "one_time_burst": 0, "refill_time": 2 },
            "ops": { "size": 3, "one_time_burst": 4, "refill_time": 5 }
        },
        "queue_affinity": [
            { "queue_index": 0, "host_cpus": [0, 1, 2] },
            { "queue_index": 1, "host_cpus": [3] }
        ],
        "serial": "s",
        "backing_files": true,
        "sparse": false,
        "image_type": "Raw",
        "lock_granularity": "Full",
        "disable_io_uring": true,
        "disable_aio": true,
        "id": "d",
        "pci_segment": 1,
        "pci_device_id": 2
    });
    let read = Block.read_flag(flag).unwrap();
    assert_eq!(read, expected);
    assert_eq!(Block.read_flag(&Block.write_flag(&read)).unwrap(), expected);
    let socket = Block
        .read_flag("vhost_user=on,socket=/vm/s,rate_limit_group=g")
        .unwrap();
    assert_eq!(socket["vhost_socket"], "/vm/s");
    assert_eq!(socket["rate_limit_group"], "g");
    AnyKind::check(&Block, &expected, &facts()).unwrap();
}

#[test]
fn hidden_keys_are_not_shown() {
    let help = keyvalue::help(&schemars::schema_for!(DiskConfig));
    assert!(
        !help.contains("_disable") && !help.contains("_aio"),
        "{help}"
    );
    for key in [
        "path=",
        "bw_size=",
        "ops_refill_time=",
        "socket=",
        "image_type=",
        "sparse=",
    ] {
        assert!(
            help.lines().any(|line| line.starts_with(key)),
            "{key} in {help}"
        );
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let check = |text: &str| {
        let config = Block.read_flag(text).unwrap();
        AnyKind::check(&Block, &config, &facts())
    };
    for good in [
        "path=/a",
        "path=/a,num_queues=4",
        "path=/a,queue_size=4",
        "path=/a,queue_size=32768",
        "path=/a,image_type=vhd",
        "path=/a,image_type=vhdx,readonly=on",
        "path=/a,serial=12345678901234567890",
        "path=/a,rate_limit_group=g",
        "path=/a,rate_limit_group=g,bw_size=0,bw_refill_time=0",
        "path=/a,num_queues=2,queue_affinity=[1@[0]]",
    ] {
        check(good).unwrap();
    }
    for (bad, reason) in [
        ("readonly=on", "path is missing"),
        ("path=/a,socket=/b", "exclude each other"),
        ("socket=/b,vhost_user=on", "not in this version"),
        ("vhost_user=on", "not in this version"),
        ("path=/a,num_queues=0", "1 to 4 are"),
        ("path=/a,num_queues=5", "--cpus boot"),
        ("path=/a,queue_size=0", "power of two"),
        ("path=/a,queue_size=2", "from 4"),
        ("path=/a,queue_size=100", "power of two"),
        (
            "path=/a,serial=123456789012345678901",
            "21 bytes, at most 20",
        ),
        ("path=/a,serial=ääääääääääb", "21 bytes, at most 20"),
        (
            "path=/a,rate_limit_group=g,ops_size=1,ops_refill_time=1",
            "exclude each other",
        ),
        ("path=/a,queue_affinity=[1@[0]]", "names queue 1"),
        ("path=/a,queue_affinity=[0@[0],0@[1]]", "twice"),
        ("path=/a,id=__a", "monitor's own"),
        ("path=/a,pci_device_id=32", "1 to 31"),
        ("path=/a,iommu=on", "IOMMU"),
    ] {
        let problem = check(bad).unwrap_err();
        assert!(problem.text.contains(reason), "{bad}: {problem}");
        assert_eq!(problem.option, "--disk");
    }
    let problem = Block.read_flag("path=/a,bw_size=5").unwrap_err();
    assert!(problem.text.contains("bw_refill_time"), "{problem}");
    assert!(Block.read_flag("path=/a,image_type=unknown").is_err());
    assert!(Block.read_flag("path=/a,lock_granularity=FULL").is_err());
    let unknown = json!({ "path": "/a", "colour": 1 });
    let problem = AnyKind::check(&Block, &unknown, &facts()).unwrap_err();
    assert!(problem.text.contains("colour"), "{problem}");
}

#[test]
fn the_image_is_the_only_path() {
    let paths = |text| AnyKind::paths(&Block, &Block.read_flag(text).unwrap()).unwrap();
    assert_eq!(paths("path=/a"), [("/a".into(), Access::ReadWrite)]);
    assert_eq!(paths("path=/a,readonly=on"), [("/a".into(), Access::Read)]);
    assert_eq!(paths("socket=/a"), []);
}

#[test]
fn examples_pass_the_check() {
    for example in Block::EXAMPLES {
        let config = Block.read_flag(example).unwrap();
        AnyKind::check(&Block, &config, &facts()).unwrap();
    }
}
