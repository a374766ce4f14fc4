//! How a node's earlier state is kept: one compact value per change, in a format of its own, so that neither the protocol
//! nor the order of fields in a struct is part of the database.
//!
//! `format u8 (2 with extended attributes, else 1) | kind u8 | deleted u8 | mode u32 | mtime i64 | rev u64 | author [16] | content rev u64 | content author
//! [16] | content u8 (and 32 bytes if 1) | target length u16 and bytes (0: none) | with format 2: length
//! u32 and extended attributes | names until the end, each parent [16],
//! length u8, bytes`. Numbers are little-endian.

use super::columns::{kind, kind_column, name, target, xattrs};
use super::{MetaError, Result};
use syncmount_common::{Attrs, Content, ContentHash, DeviceId, Node, NodeId, Placement, Timestamp, Xattrs};

const PLAIN: u8 = 1;
const WITH_XATTRS: u8 = 2;

pub(super) fn encode(node: &Node) -> Vec<u8> {
    let format = if node.xattrs.is_empty() { PLAIN } else { WITH_XATTRS };
    let mut out = vec![format, kind_column(node.kind) as u8, u8::from(node.deleted)];
    out.extend_from_slice(&node.attrs.mode.to_le_bytes());
    out.extend_from_slice(&node.attrs.mtime.0.to_le_bytes());
    out.extend_from_slice(&node.rev.to_le_bytes());
    out.extend_from_slice(node.author.as_bytes());
    out.extend_from_slice(&node.content_rev.to_le_bytes());
    out.extend_from_slice(node.content_author.as_bytes());
    out.push(u8::from(node.content.is_some()));
    out.extend_from_slice(node.content.as_ref().map_or(&[], |content| content.hash.as_bytes()));
    let target = node.target.as_ref().map_or(&[][..], |target| target.as_bytes());
    out.extend_from_slice(&(target.len() as u16).to_le_bytes());
    out.extend_from_slice(target);
    if format == WITH_XATTRS {
        let xattrs = node.xattrs.encode();
        out.extend_from_slice(&(xattrs.len() as u32).to_le_bytes());
        out.extend_from_slice(&xattrs);
    }
    for place in &node.names {
        out.extend_from_slice(place.parent.as_bytes());
        out.push(place.name.as_bytes().len() as u8);
        out.extend_from_slice(place.name.as_bytes());
    }
    out
}

/// The state that [`encode`] wrote; the content by its hash alone.
pub(super) fn decode(id: NodeId, column: &[u8]) -> Result<Node> {
    let mut rest = Rest(column);
    let format = rest.byte()?;
    if !matches!(format, PLAIN | WITH_XATTRS) {
        return Err(damaged());
    }
    let node = Node {
        id,
        kind: kind(i64::from(rest.byte()?))?,
        deleted: rest.byte()? != 0,
        attrs: Attrs { mode: u32::from_le_bytes(rest.array()?), mtime: Timestamp(i64::from_le_bytes(rest.array()?)) },
        rev: u64::from_le_bytes(rest.array()?),
        author: DeviceId::from_bytes(rest.array()?),
        content_rev: u64::from_le_bytes(rest.array()?),
        content_author: DeviceId::from_bytes(rest.array()?),
        changed: None,
        content: (rest.byte()? != 0).then(|| rest.array().map(ContentHash::from_bytes)).transpose()?.map(reference),
        target: rest.bytes_of_u16()?.map(|bytes| target(bytes.to_vec())).transpose()?,
        xattrs: if format == WITH_XATTRS { rest.xattrs()? } else { Xattrs::default() },
        names: Vec::new(),
    };
    Ok(Node { names: rest.names()?, ..node })
}

const fn reference(hash: ContentHash) -> Content {
    Content { hash, size: 0, sha256: None, manifest: None }
}

const fn damaged() -> MetaError {
    MetaError::Damaged("an earlier state of a node is malformed")
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(damaged())?;
        self.0 = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| damaged())
    }

    fn bytes_of_u16(&mut self) -> Result<Option<&'a [u8]>> {
        let len = u16::from_le_bytes(self.array()?);
        if len == 0 { Ok(None) } else { self.take(usize::from(len)).map(Some) }
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        let len = u32::from_le_bytes(self.array()?);
        xattrs(self.take(len as usize)?)
    }

    fn names(&mut self) -> Result<Vec<Placement>> {
        let mut names = Vec::new();
        while !self.0.is_empty() {
            let parent = NodeId::from_bytes(self.array()?);
            let len = usize::from(self.byte()?);
            names.push(Placement { parent, name: name(self.take(len)?.to_vec())? });
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::{Name, NodeKind, SymlinkTarget};

    fn file() -> Node {
        let place = |name: &str| Placement { parent: NodeId::from_bytes([3; 16]), name: Name::try_from(name).unwrap() };
        Node {
            id: NodeId::from_bytes([1; 16]),
            rev: 9,
            kind: NodeKind::File,
            deleted: false,
            names: vec![place("a"), place(&"b".repeat(255))],
            attrs: Attrs { mode: 0o644, mtime: Timestamp(-5) },
            xattrs: Xattrs::default(),
            content: Some(reference(ContentHash::of(b"x"))),
            target: None,
            author: DeviceId::from_bytes([4; 16]),
            content_rev: 7,
            content_author: DeviceId::from_bytes([5; 16]),
            changed: None,
        }
    }

    #[test]
    fn states_round_trip_and_damage_is_an_error() {
        let link = Node { target: SymlinkTarget::new(vec![b't'; 4095]).ok(), content: None, ..file() };
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.note", b"value").unwrap();
        let noted = Node { xattrs, ..file() };
        let gone = Node { deleted: true, names: Vec::new(), content: None, ..file() };
        for node in [file(), link, noted, gone] {
            let bytes = encode(&node);
            assert_eq!(decode(node.id, &bytes).unwrap(), node);
            assert!(decode(node.id, &bytes[..bytes.len() - 1]).is_err());
        }
    }
}
