//! What a peer knows beyond version 1 of the protocol.
//!
//! Both sides name it in [`HEADER`] with each request and each reply, so no state is kept between requests and a peer may be
//! replaced by an older one at any time. Names that are not known here are ignored.

/// Header, once or several times, with names of features separated by commas.
pub const HEADER: &str = "syncmount-features";

/// One feature. The order is that of [`ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// A server takes contents told by their differences ([`super::commit::ChangedContent`]).
    ContentDeltas,
    /// A server takes chunks told by their differences ([`super::chunks`]).
    ChunkDeltas,
    /// A server answers with differences if the request names a base ([`super::chunks::FetchList`]).
    FetchDeltas,
    /// The peer sends a field beyond version 1 only if ignoring it is harmless, and ignores the fields that it does not know.
    ExtraFields,
    /// A server keeps the owners that a commit tells ([`super::commit::CommitRequest::owners`]).
    Owners,
}

/// Every feature of this program.
pub const ALL: [Feature; 5] =
    [Feature::ContentDeltas, Feature::ChunkDeltas, Feature::FetchDeltas, Feature::ExtraFields, Feature::Owners];

/// The value of [`HEADER`] that this program sends: the names of [`ALL`].
pub const NAMED: &str = "content-deltas, chunk-deltas, fetch-deltas, extra-fields, owners";

impl Feature {
    /// Its name in the header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentDeltas => "content-deltas",
            Self::ChunkDeltas => "chunk-deltas",
            Self::FetchDeltas => "fetch-deltas",
            Self::ExtraFields => "extra-fields",
            Self::Owners => "owners",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The features that a peer has named, as far as this program knows them. The default is a peer that has named none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(u32);

impl Features {
    /// Reads the values of all headers of one message.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let names = values.into_iter().flat_map(|value| value.split(',')).map(str::trim);
        let known = names.filter_map(|name| ALL.into_iter().find(|feature| feature.name() == name));
        Self(known.fold(0, |bits, feature| bits | feature.bit()))
    }

    /// Whether the peer has named `feature`.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// The set as a number, for an atomic. Means nothing outside of this process.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The set that [`Self::to_bits`] gave.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_names_every_feature() {
        let names: Vec<_> = ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(NAMED, names.join(", "));
        let all = Features::parse([NAMED]);
        assert!(ALL.into_iter().all(|feature| all.has(feature)));
        assert_eq!(Features::from_bits(all.to_bits()), all);
    }

    #[test]
    fn headers_are_split_and_unknown_names_ignored() {
        let some = Features::parse(["chunk-deltas,of-tomorrow", " extra-fields "]);
        let has: Vec<_> = ALL.into_iter().filter(|feature| some.has(*feature)).collect();
        assert_eq!(has, [Feature::ChunkDeltas, Feature::ExtraFields]);
        assert_eq!(Features::parse(["", ",", "Extra-Fields", "extra fields"]), Features::default());
    }
}
