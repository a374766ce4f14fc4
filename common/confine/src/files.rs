//! Landlock: files, TCP ports, sockets and signals of other processes.

use super::Wall;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, NetPort, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rules that are asked for. A kernel without some of them holds the others.
const NEWEST: ABI = ABI::V6;

/// Confines the calling thread; whether files and whether ports are held.
pub(super) fn confine(wall: &Wall) -> Result<(bool, bool), RulesetError> {
    let mut ports = BitFlags::from(AccessNet::BindTcp);
    if !wall.connects {
        ports |= AccessNet::ConnectTcp;
    }
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(ports)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(&wall.readable, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(&wall.writable, writing()))?
        .add_rules(wall.ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::BindTcp))))?;
    let status = rules.restrict_self()?;
    let holds = status.ruleset != RulesetStatus::NotEnforced;
    let knows_ports =
        matches!(status.landlock, LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V4);
    Ok((holds, holds && knows_ports))
}

/// Everything but running programs and making or controlling devices.
fn writing() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(NEWEST) & !never
}
