//! Flags and JSON.

use serde_json::json;

use super::*;
use ::device::AnyKind;

fn refusal(flag: &str) -> String {
    let config = Net.read_flag(flag).unwrap();
    let facts = Facts {
        boot_vcpus: 4,
        ..Facts::default()
    };
    let problem = AnyKind::check(&Net, &config, &facts).unwrap_err();
    assert_eq!(problem.option, "--net");
    problem.text
}

#[test]
fn the_flag_and_the_json_mean_the_same() {
    assert_eq!(
        Net.read_flag("")
            .unwrap_or_else(|_| Net.read_flag("tap=").unwrap()),
        json!({
            "num_queues": 2, "queue_size": 256, "vhost_user": false, "vhost_mode": "Client",
            "offload_tso": true, "offload_ufo": true, "offload_csum": true, "pci_segment": 0
        })
    );
    let flag = "tap=mytap,mac=12:34:56:78:90:AB,host_mac=12:34:56:78:90:ac,ip=fd00::1,mask=ffff::,\
                mtu=9000,num_queues=8,queue_size=1024,offload_ufo=off,id=lan,pci_device_id=4,\
                bw_size=1000,bw_refill_time=100,vhost_mode=SERVER,socket=/vm/s,fd=[3,4]";
    assert_eq!(
        Net.read_flag(flag).unwrap(),
        json!({
            "tap": "mytap", "mac": "12:34:56:78:90:ab", "host_mac": "12:34:56:78:90:ac",
            "ip": "fd00::1", "mask": "ffff::", "mtu": 9000, "num_queues": 8, "queue_size": 1024,
            "vhost_user": false, "vhost_socket": "/vm/s", "vhost_mode": "Server", "fds": [3, 4],
            "rate_limiter_config": {
                "bandwidth": { "size": 1000, "one_time_burst": 0, "refill_time": 100 },
                "ops": null
            },
            "offload_tso": true, "offload_ufo": false, "offload_csum": true,
            "id": "lan", "pci_segment": 0, "pci_device_id": 4
        })
    );
    assert!(Net.read_flag("mac=12:34:56:78:90").is_err());
    assert!(Net.read_flag("mac=12:34:56:78:90:+b").is_err());
    assert!(Net.read_flag("ip=10.0.0").is_err());
    let unknown = json!({ "colour": 1 });
    let problem = AnyKind::check(&Net, &unknown, &Facts::default()).unwrap_err();
    assert!(problem.text.contains("colour"), "{problem}");
    AnyKind::check(&Net, &json!({}), &Facts::default()).unwrap();
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    for (flag, words) in [
        ("ip=10.0.0.1", "add mask="),
        ("mask=255.0.0.0", "add ip="),
        ("ip=10.0.0.1,mask=0.255.0.0", "mask"),
        ("ip=10.0.0.1,mask=ffff::", "same family"),
        ("mac=01:00:00:00:00:00", "even"),
        ("mac=00:00:00:00:00:00", "zero"),
        ("host_mac=ff:ff:ff:ff:ff:ff", "host_mac"),
        ("mtu=1279", "1280"),
        ("num_queues=0", "two queues"),
        ("num_queues=3", "two queues"),
        ("num_queues=10", "--cpus"),
        ("queue_size=100", "power of two"),
        ("queue_size=1", "power of two"),
        ("fd=[3]", "exclude"),
        ("offload_csum=off,offload_ufo=off", "offload_tso=off"),
        ("vhost_user=on,socket=/vm/s", "not in this version"),
        ("vhost_mode=server", "not in this version"),
        ("tap=a/b", "slash"),
        ("tap=sixteen_letters_", "15 bytes"),
        ("pci_device_id=0", "host bridge"),
        ("id=__net", "monitor's own"),
    ] {
        let flag = match flag {
            "fd=[3]" => "fd=[3],tap=t0".to_owned(),
            other => other.to_owned(),
        };
        let text = refusal(&flag);
        assert!(text.contains(words), "{flag}: {text}");
    }
    assert!(refusal("fd=[3,4]").contains("needs 1"));
    assert!(refusal("fd=[2]").contains("standard input"));
    assert!(refusal("fd=[3],num_queues=4").contains("needs 2"));
}

#[test]
fn generated_addresses_are_local_and_of_one_station() {
    let first = MacAddress::generate().unwrap();
    assert_eq!(first.0[0], 0x2e);
    assert!(first.is_station());
    assert_ne!(first, MacAddress::generate().unwrap());
    assert_eq!(MacAddress::try_from(first.to_string()), Ok(first));
}

#[test]
fn configuration_fields_tell_address_link_pairs_and_mtu() {
    if !own_network() {
        return;
    }
    let bench = Bench::new();
    let _device = device(&bench, &config("mtu=4000"));
    let driver = Driver::find(&bench, 1);
    let bytes: Vec<u8> = (0..12)
        .map(|at| driver.field(at, 1).to_le_bytes()[0])
        .collect();
    assert_eq!(bytes[..6], MAC.0);
    assert_eq!(bytes[6..], [1, 0, 1, 0, 0xa0, 0x0f]);
    assert!(ip("link show t0").contains("mtu 4000"));
}

#[test]
fn a_tap_is_opened_as_the_configuration_says() {
    if !own_network() {
        return;
    }
    let mut config: NetConfig =
        keyvalue::from_str("tap=,ip=192.168.249.1,mask=255.255.255.0").unwrap();
    let end = open(&config, None).unwrap();
    assert_eq!(end.tap.name(), "vmtap0");
    assert_eq!((end.mac.0[0], end.mtu), (0x2e, Some(1500)));
    assert!(ip("addr show vmtap0").contains("192.168.249.1/24"));
    config.tap = Some("lo".into());
    let error = telemetry::chain(&open(&config, None).unwrap_err()).join(": ");
    assert!(error.contains("tap lo"), "{error}");
    assert_eq!(
        <Net as Kind>::paths(&config),
        [("/dev/net/tun".into(), Access::ReadWrite)]
    );
    // Descriptors are those that were given, not those of the numbers.
    let prepared = Tap::open("given", 1).unwrap();
    let descriptor = std::os::fd::AsFd::as_fd(&*prepared.queues()[0]);
    let descriptors = vec![descriptor.try_clone_to_owned().unwrap()];
    let config: NetConfig = keyvalue::from_str("fd=9997").unwrap();
    let end = open(&config, Some(descriptors)).unwrap();
    assert_eq!(end.tap.name(), "given");
    let error = open(&config, None).unwrap_err().to_string();
    assert!(error.contains("1 descriptors, 0 were given"), "{error}");
    assert_eq!(<Net as Kind>::paths(&config), []);
}
