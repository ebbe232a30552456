use crate::Resource;
use crate::payload::Role;

/// Why tables could not be made or a payload could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device's name is not an ACPI name.
    #[error(
        "device name \"{name}\" is not an ACPI name: 1 to 4 of A-Z, 0-9 and _, not a digit first"
    )]
    NodeName {
        /// The name.
        name: &'static str,
    },
    /// Two devices have the same name.
    #[error("two platform devices are named \"{name}\" in ACPI")]
    NodeTwice {
        /// The name.
        name: &'static str,
    },
    /// A device's hardware id has the wrong form.
    #[error("device {name}: \"{id}\" is not an ACPI hardware id of its kind")]
    NodeId {
        /// The device.
        name: &'static str,
        /// Its id.
        id: &'static str,
    },
    /// A range is empty or goes past the end of its address space.
    #[error("device {name}: {resource:?} is empty or ends past its address space")]
    NodeResource {
        /// The device.
        name: &'static str,
        /// The range.
        resource: Resource,
    },
    /// No processor, or more than ACPI names are enough for.
    #[error("{count} vCPUs cannot be described in ACPI: at least 1, at most {max} (--cpus max=)")]
    ProcessorCount {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The ACPI tables fit neither in place nor in spare RAM.
    #[error(
        "the ACPI tables need {need} bytes of RAM, and only {have} are left beside kernel and \
         initramfs: raise --memory size or lower --cpus max"
    )]
    AcpiTooLarge {
        /// Bytes needed.
        need: u64,
        /// Bytes of the spare RAM.
        have: u64,
    },
    /// An identification string has a character that SMBIOS cannot carry.
    #[error("--platform {option}: the text has a NUL character, which ends a string in SMBIOS")]
    IdentityNul {
        /// The option's key.
        option: &'static str,
    },
    /// An identification string is empty, which SMBIOS cannot express.
    #[error("--platform {option}: the text is empty; leave the key out instead")]
    IdentityEmpty {
        /// The option's key.
        option: &'static str,
    },
    /// The system's UUID is not one.
    #[error(
        "--platform system_uuid: \"{text}\" is not a UUID like \
         01234567-89ab-cdef-0123-456789abcdef"
    )]
    IdentityUuid {
        /// What was given.
        text: String,
    },
    /// More OEM strings than one structure counts.
    #[error("--platform oem_strings: {count} strings, and SMBIOS has room for 255")]
    OemStringCount {
        /// How many there are.
        count: usize,
    },
    /// All identification strings together are too long.
    #[error(
        "the SMBIOS table would be {size} bytes, and {max} fit: shorten --platform oem_strings \
         or the system_ and chassis_ texts"
    )]
    SmbiosTooLarge {
        /// Bytes needed.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Neither kernel nor firmware.
    #[error("nothing to start: give --kernel or --firmware")]
    NoPayload,
    /// Both kernel and firmware.
    #[error("--kernel and --firmware exclude each other: give one of them")]
    KernelAndFirmware,
    /// A file could not be read.
    #[error("cannot read the {role} file (--{role})")]
    Read {
        /// Which file.
        role: Role,
        /// The host's error.
        source: std::io::Error,
    },
    /// A file is a pipe, a directory or a device.
    #[error(
        "the {role} is not a regular file: --{role} needs one, since it is read at several offsets"
    )]
    NotRegularFile {
        /// Which file.
        role: Role,
    },
    /// A file is empty.
    #[error("the {role} file is empty (--{role})")]
    EmptyFile {
        /// Which file.
        role: Role,
    },
    /// A file ends before what its headers promise.
    #[error(
        "the {role} file is truncated or damaged: it needs {len} bytes at offset {offset}, and has \
         {size} bytes in all"
    )]
    Truncated {
        /// Which file.
        role: Role,
        /// Where the bytes should be.
        offset: u64,
        /// How many there should be.
        len: u64,
        /// Size of the file.
        size: u64,
    },
    /// The file is of no known format.
    #[error(
        "the {role} is neither an ELF file with a PVH note nor a bzImage: first bytes are {found}"
    )]
    NotAnImage {
        /// Which file.
        role: Role,
        /// Its first bytes, and a name for them.
        found: String,
    },
    /// The file is ELF and cannot be started.
    #[error("the {role} is an ELF file that cannot be started: it has {what}")]
    BadElf {
        /// Which file.
        role: Role,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is ELF without a PVH entry point.
    #[error(
        "the {role} is an ELF file without a PVH entry point (note \"Xen\" type 18, \
         XEN_ELFNOTE_PHYS32_ENTRY): build Linux with CONFIG_PVH=y, or use a bzImage or firmware \
         made for PVH"
    )]
    NoPvhNote {
        /// Which file.
        role: Role,
    },
    /// The file is a bzImage and cannot be started.
    #[error("the {role} is a bzImage that cannot be started: it has {what}")]
    BadBzImage {
        /// Which file.
        role: Role,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is a bzImage of an old kernel.
    #[error(
        "the {role} is a bzImage with boot protocol {major}.{minor:02}; at least 2.12 is needed \
         (Linux 3.8 or later)"
    )]
    OldBzImage {
        /// Which file.
        role: Role,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The payload ends above the RAM.
    #[error(
        "the {role} needs memory from {start:#x} to {end:#x}, and RAM below 4 GiB ends at \
         {ram:#x}: raise --memory size"
    )]
    PayloadTooLarge {
        /// Which file.
        role: Role,
        /// First address.
        start: u64,
        /// End address.
        end: u64,
        /// End of RAM.
        ram: u64,
    },
    /// The payload is where something else must be.
    #[error(
        "the {role} is made for memory from {start:#x} to {end:#x}, where boot information or \
         firmware tables are: it must be linked for 1 MiB or above"
    )]
    PayloadInTheWay {
        /// Which file.
        role: Role,
        /// First address.
        start: u64,
        /// End address.
        end: u64,
    },
    /// The initramfs does not fit between kernel and top of RAM.
    #[error(
        "the initramfs needs {need} bytes, and {have} are free between the kernel and {limit:#x}, \
         where RAM or the kernel's reach ends: raise --memory size, or make the initramfs smaller"
    )]
    InitramfsTooLarge {
        /// Its size in bytes.
        need: u64,
        /// Bytes that are free.
        have: u64,
        /// End of the memory it may be in.
        limit: u64,
    },
    /// The command line is too long.
    #[error("the command line has {len} bytes, and the limit is {max}: shorten --cmdline")]
    CmdlineTooLong {
        /// Its length in bytes.
        len: u64,
        /// The limit, of the kernel or of the machine.
        max: u64,
    },
    /// The command line has a NUL.
    #[error("--cmdline has a NUL character, which would end it")]
    CmdlineNul,
    /// A file could not be read into guest memory.
    #[error("cannot load the {role} into guest memory (--{role})")]
    Load {
        /// Which file.
        role: Role,
        /// Why.
        source: memory::Error,
    },
    /// Boot information could not be written to guest memory.
    #[error("cannot write {what} to guest memory: raise --memory size")]
    Handoff {
        /// What was being written.
        what: &'static str,
        /// Why.
        source: memory::Error,
    },
    /// The memory map has more entries than the boot protocol's structure.
    #[error("the memory map has {count} entries, and the boot protocol has room for {max}")]
    MemoryMapTooLong {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
}
