//! Network through taps.

use std::process::{Command, Stdio};

use testkit::Builder;

use crate::{Debian, host};

const MAC: &str = "2e:11:22:33:44:55";

pub(crate) fn options(builder: Builder) -> Builder {
    builder
        .arg(
            "--net",
            format!("tap=chtest0,ip=192.168.249.1,mask=255.255.255.0,mac={MAC}"),
        )
        .arg(
            "--net",
            "tap=chtest1,ip=192.168.250.1,mask=255.255.255.0,num_queues=4,mtu=1400",
        )
}

/// The guest's name of the interface on this host's network.
fn interface(debian: &mut Debian, mac: &str) -> String {
    let script = format!("grep -l {mac} /sys/class/net/*/address | cut -d/ -f5");
    debian.run(&script).trim().to_owned()
}

pub(crate) fn talk_both_ways(debian: &mut Debian) {
    let name = interface(debian, MAC);
    // networkd gives both interfaces the address of the first; what is wanted is said here.
    debian.run(&format!(
        "systemctl stop systemd-networkd.socket systemd-networkd
         ip addr flush scope global; ip addr add 192.168.249.2/24 dev {name}; ip link set {name} up"
    ));
    debian.run("ping -c 3 -i 0.2 -W 5 192.168.249.1");
    host(
        "ping",
        &["-c", "3", "-i", "0.2", "-W", "5", "192.168.249.2"],
    );
    debian.run("ping -c 3 -i 0.2 -W 5 -M do -s 1472 192.168.249.1");
    for direction in ["", "-R"] {
        let server = Command::new("iperf3")
            .args(["-s", "-1", "-B", "192.168.249.1"])
            .stdout(Stdio::null())
            .spawn();
        let mut server = server.unwrap();
        debian.run(&format!(
            "for i in $(seq 20); do iperf3 -c 192.168.249.1 -t 3 {direction} >/tmp/iperf && exit 0; sleep 0.5; done
             cat /tmp/iperf; exit 1"
        ));
        assert!(server.wait().unwrap().success());
    }
    // A file keeps its content over offloads in both directions.
    let sum = debian.run(
        "head -c 8000000 /dev/urandom > /tmp/sent
         (nc -l -p 7000 -N < /tmp/sent >/dev/null) >/dev/null 2>&1 &
         md5sum < /tmp/sent",
    );
    let fetch = "for i in $(seq 20); do socat -u TCP:192.168.249.2:7000 - > /tmp/got && [ -s /tmp/got ] && break; \
                 sleep 0.5; done; md5sum < /tmp/got";
    assert_eq!(host("sh", &["-c", fetch]), sum);
}

pub(crate) fn queues_and_offloads_change(debian: &mut Debian) {
    let mac = debian.client().get("vm.info").json()["config"]["net"][1]["mac"].clone();
    let mac = mac.as_str().unwrap().to_owned();
    assert!(mac.starts_with("2e:"), "{mac}");
    let name = interface(debian, &mac);
    let mtu = debian.run(&format!("cat /sys/class/net/{name}/mtu"));
    assert_eq!(mtu, "1400\n");
    assert!(host("ip", &["link", "show", "chtest1"]).contains("mtu 1400"));
    debian.run(&format!(
        "ip addr add 192.168.250.2/24 dev {name}; ip link set {name} up"
    ));
    let ping = "ping -c 2 -i 0.2 -W 5 192.168.250.1";
    for queues in [2, 1, 2] {
        debian.run(&format!("ethtool -L {name} combined {queues} || [ $(ls -d /sys/class/net/{name}/queues/tx-* | wc -l) = 2 ]"));
        let shown = debian.run(&format!("ethtool -l {name} | grep Combined | tail -1"));
        assert!(shown.trim().ends_with(&queues.to_string()), "{shown}");
        debian.run(ping);
    }
    let features = debian.run(&format!("ethtool -k {name}"));
    for feature in ["tx-checksumming: on", "tcp-segmentation-offload: on"] {
        assert!(features.contains(feature), "{features}");
    }
    debian.run(&format!(
        "ethtool -K {name} gro off lro off 2>/dev/null; ethtool -K {name} tso off gro on"
    ));
    debian.run(ping);
}
