//! `GET /v1/folders/FOLDER/holds`, `POST /v1/folders/FOLDER/holds/DEVICE/allow` and `…/deny`: the stop for mass deletes.
//!
//! A token whose devices remove a large part of a folder within an hour is held: a commit with it that removes more is
//! refused with the error `held` and [`HeldDetails`] until an operator allows it. Other commits go through. `DEVICE` is the
//! id or the name of the device that was the first to be refused, or `token:NAME`. Both requests want the token `admin`,
//! answer the [`Hold`] as it is then, and may be repeated. A no also puts back what the same burst took away before.

use super::changes::Device;
use crate::ids::DeviceId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// What was decided about a device that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HoldState {
    /// Nobody has decided yet: its removes are refused.
    Waiting,
    /// Its removes stay refused.
    Denied,
    /// It may remove what it likes until the time in `until`.
    Allowed,
}

/// One device that is or was held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Hold {
    /// Who.
    pub device: Device,
    /// What was decided.
    pub state: HoldState,
    /// When it was held.
    pub since: Timestamp,
    /// How many nodes it would have removed by then.
    pub removes: u64,
    /// How many nodes the folder had before.
    pub nodes: u64,
    /// If it is allowed: until when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
}

/// The holds of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct HoldList {
    /// The newest first.
    pub holds: Vec<Hold>,
}

/// `details` of the error `held` (423).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct HeldDetails {
    /// Who is held.
    pub device: DeviceId,
    /// How many nodes it would have removed by then.
    pub removes: u64,
    /// How many nodes the folder had before.
    pub nodes: u64,
    /// Whether somebody has said no: the nodes stay, and the client may put them back.
    #[serde(default)]
    pub denied: bool,
}
