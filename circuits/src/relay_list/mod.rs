//! The network's documents (PROTOCOL.md §7): what a relay says about itself, and the signed list of relays.
//!
//! A relay signs a [`Descriptor`]. Authorities put descriptors into a [`Draft`] and sign it, each for itself.
//! A client reads the result as a [`RelayList`], and only through [`RelayList::decode_verified`].

mod descriptor;
mod list;
mod policy;
mod policy_text;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

pub use descriptor::{
    Descriptor, DescriptorError, LinkService, MAX_ADDRESSES, MAX_DESCRIPTOR_LEN,
    MAX_DESCRIPTOR_LIFE, RelayInfo, Roles,
};
pub use list::{
    Draft, ListError, MAX_LIST_LEN, MAX_LIST_LIFE, MAX_RELAYS, MAX_SIGNATURES, RelayList, Trust,
    check_network_name,
};
pub use policy::{
    Action, ExitPolicy, MAX_RULES, Net, Proto, Protocols, Rule, embedded_v4, is_global,
};
pub(crate) use policy::{mask_v4, mask_v6};
pub use policy_text::PolicyTextError;
