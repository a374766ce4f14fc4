//! Identifiers. Ids are made by whoever creates the thing (UUIDv7), so that no round trip is needed to name it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
#[cfg(feature = "schema")]
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
        #[cfg_attr(feature = "schema", schema(value_type = String, format = "uuid"))]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// A new id from a clock and randomness that the caller brings: UUIDv7, `unix_ms` since 1970.
            pub const fn new_v7(unix_ms: u64, random: &[u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
            }

            /// The 16 bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = self.0.simple().to_string();
                f.write_str(&text[20..])
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_type! {
    /// A shared folder on a server.
    FolderId
}
uuid_type! {
    /// A file, directory or symlink, whatever it is called and wherever it lies.
    NodeId
}
uuid_type! {
    /// One client installation: a cache folder on a machine.
    DeviceId
}
uuid_type! {
    /// One commit. The server answers the same id with the same answer again.
    OpId
}
uuid_type! {
    /// One life of a folder's history. It changes when the server's store is restored from a backup.
    Epoch
}

impl NodeId {
    /// The root directory of every folder. It exists from the start and is never renamed or removed.
    pub const ROOT: Self = Self(Uuid::nil());
}

/// A position in a folder's gapless sequence of changes; 0 is before the first.
pub type Seq = u64;

/// The sequence number of a node's last change; 0 means that the server has never heard of the node.
pub type Rev = u64;
