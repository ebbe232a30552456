/// The interrupt controller that turns interrupt lines (GSIs) into messages to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Value of its identification register; the MP table names it by this.
    pub id: u8,
    /// Guest physical address of its registers.
    pub address: u32,
    /// Low byte of its version register (0x11 for the 82093AA's successors).
    pub version: u8,
}
