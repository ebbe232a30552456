use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Block {
    #[serde(with = "hex")]
    bytes: Vec<u8>,
    #[serde(
        default,
        with = "hex::optional",
        skip_serializing_if = "Option::is_none"
    )]
    more: Option<Vec<u8>>,
}

#[test]
fn bytes_are_hexadecimal_strings() {
    let block = Block {
        bytes: vec![0x00, 0x0f, 0xa5, 0xff],
        more: Some(vec![1]),
    };
    let text = json!({ "bytes": "000fa5ff", "more": "01" });
    assert_eq!(serde_json::to_value(&block).unwrap(), text);
    assert_eq!(serde_json::from_value::<Block>(text).unwrap(), block);
    assert_eq!(
        serde_json::from_value::<Block>(json!({ "bytes": "A5" }))
            .unwrap()
            .bytes,
        [0xa5]
    );
}

#[test]
fn damaged_bytes_are_refused() {
    for text in ["0", "0g", "zz", "é", " 00", "+1"] {
        let result = serde_json::from_value::<Block>(json!({ "bytes": text }));
        assert!(result.is_err(), "{text:?} was taken");
    }
    assert!(serde_json::from_value::<Block>(json!({ "bytes": [0, 1] })).is_err());
}

#[test]
fn a_state_without_later_additions_can_be_read() {
    let state = json!({
        "mp_state": "Runnable",
        "regs": Regs::default(),
        "special_regs": SpecialRegs::default(),
        "msrs": [{ "index": 16, "value": 7 }],
        "lapic": "",
        "xsave": "00",
        "debug_regs": DebugRegs::default(),
        "events": { "nmi": { "pending": true } },
    });
    let state: VcpuState = serde_json::from_value(state).unwrap();
    assert_eq!(
        (state.tsc_khz, state.nested.as_ref(), state.xcrs.len()),
        (None, None, 0)
    );
    assert!(state.events.nmi.pending && !state.events.nmi.masked);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<VcpuState>(&text).unwrap(), state);
}

proptest! {
    #[test]
    fn bytes_survive(bytes: Vec<u8>, more: Option<Vec<u8>>) {
        let block = Block { bytes, more };
        let text = serde_json::to_string(&block).unwrap();
        prop_assert_eq!(serde_json::from_str::<Block>(&text).unwrap(), block);
    }
}
