//! Exit codes, the contract's (sysexits(3)): what a unit file or a script may rely on.

/// All went well, a requested stop included.
pub const OK: u8 = 0;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// A needed address or service is unavailable; trying again later may help.
pub const UNAVAILABLE: u8 = 69;
/// A bug of ours.
pub const SOFTWARE: u8 = 70;
/// The system does not let us.
pub const PERMISSION: u8 = 77;
/// The configuration is wrong; trying again without a change will not help.
pub const CONFIG: u8 = 78;
