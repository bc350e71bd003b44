//! The commands that make documents: `new-authority`, `sign`, `cosign`, `file`.

use std::path::{Path, PathBuf};

use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::{Descriptor, Draft, MAX_DESCRIPTOR_LEN, MAX_LIST_LEN};

use super::show::relay_table;
use super::{CosignArgs, FileArgs, NewAuthorityArgs, SignArgs, open_existing, usage};
use crate::cli::table::{date, until};
use crate::config::{NetworkFile, id_to_hex, read_file, unix_now};
use crate::error::Error;
use crate::state::{AUTHORITY_KEY_FILE, AuthorityKey, StateDir, write_public};

const DAY: u64 = 86_400;
/// A list starts this long before it is signed, seconds: clocks of readers that are a little slow take it too.
const CLOCK_SLACK: u64 = 600;

pub(super) fn new_authority(args: &NewAuthorityArgs) -> Result<String, Error> {
    let dir = StateDir::open(&args.state)?;
    let _lock = dir.lock()?;
    let key = AuthorityKey(IdentityKey::generate(&mut rand::rng()));
    key.store(&dir)?;
    Ok(format!(
        "made authority {}\nIts key is in {}: whoever has it speaks for the network. Keep it offline, with a backup.\n",
        id_to_hex(&key.0.public()),
        dir.path_of(AUTHORITY_KEY_FILE)?.display(),
    ))
}

pub(super) fn sign(args: &SignArgs) -> Result<String, Error> {
    let authorities = load_authorities(&args.authority)?;
    let now = unix_now();
    let mut relays = Vec::new();
    for path in &args.descriptors {
        relays.push(load_descriptor(path, now)?);
    }
    let from = now.saturating_sub(CLOCK_SLACK);
    let until = from.saturating_add(u64::from(args.days).saturating_mul(DAY));
    let mut draft = Draft::new(&args.network, from, until, relays)
        .map_err(|error| usage("this relay list can't be made").with_source(error))?;
    add_signatures(&mut draft, &authorities, &args.out)?;
    Ok(format!(
        "{}{}",
        relay_table(draft.relays(), now),
        describe(&draft, &args.out, now)
    ))
}

pub(super) fn cosign(args: &CosignArgs) -> Result<String, Error> {
    let authorities = load_authorities(&args.authority)?;
    let now = unix_now();
    let refuse = |what: &str| {
        Error::local(format!(
            "the relay list {} is not signed: {what}",
            args.list.display()
        ))
    };
    let mut draft = Draft::decode(&read_file(&args.list, MAX_LIST_LEN)?)
        .map_err(|error| refuse("it is not one to be signed").with_source(error))?;
    if draft.network() != args.network {
        return Err(refuse("it belongs to another network"));
    }
    if now >= draft.valid_until() {
        return Err(refuse("it has expired"));
    }
    let out = args.out.as_ref().unwrap_or(&args.list);
    add_signatures(&mut draft, &authorities, out)?;
    Ok(format!(
        "{}{}",
        relay_table(draft.relays(), now),
        describe(&draft, out, now)
    ))
}

pub(super) fn file(args: &FileArgs) -> Result<String, Error> {
    let made = NetworkFile {
        name: args.name.clone(),
        authorities: args.authority.clone(),
        threshold: args.threshold,
        list: args.list.clone(),
        rules: PathRules {
            ipv4_prefix: args.ipv4_prefix,
            ipv6_prefix: args.ipv6_prefix,
        },
    };
    let text = made.to_toml()?;
    // What users will be told about a wrong file is what its maker is told now.
    NetworkFile::parse(&text, &args.out)
        .map_err(|error| usage("this network file can't be made").with_source(error))?;
    write_public(&args.out, text.as_bytes())?;
    Ok(format!(
        "wrote {}: network {}, {} of {} authorities must sign\nGive it to users with the relay list; whoever can change it decides whom they trust.\n",
        args.out.display(),
        made.name,
        made.threshold,
        made.authorities.len(),
    ))
}

fn load_authorities(paths: &[PathBuf]) -> Result<Vec<AuthorityKey>, Error> {
    let load = |path: &PathBuf| Ok(AuthorityKey::load(&open_existing(path)?)?);
    paths.iter().map(load).collect()
}

fn load_descriptor(path: &Path, now: u64) -> Result<Descriptor, Error> {
    let refuse = |what: &str| {
        Error::local(format!(
            "the descriptor {} is refused: {what}",
            path.display()
        ))
    };
    let bytes = read_file(path, MAX_DESCRIPTOR_LEN)?;
    let descriptor = Descriptor::decode(&bytes)
        .map_err(|error| refuse("it can't be read").with_source(error))?;
    if !descriptor.verify() {
        return Err(refuse("its relay did not sign it"));
    }
    if now >= descriptor.expires {
        let hint = "its operator renews it with \"hushswarm network relay-keys\"";
        return Err(refuse("it has expired").with_hint(hint));
    }
    Ok(descriptor)
}

fn add_signatures(
    draft: &mut Draft,
    authorities: &[AuthorityKey],
    out: &Path,
) -> Result<(), Error> {
    authorities
        .iter()
        .for_each(|authority| draft.sign(&authority.0));
    let bytes = draft
        .encode()
        .map_err(|error| usage("this relay list can't be made").with_source(error))?;
    Ok(write_public(out, &bytes)?)
}

fn describe(draft: &Draft, out: &Path, now: u64) -> String {
    let mut text = format!(
        "wrote {}: network {}, {} relays, valid until {} (for {}), signed by\n",
        out.display(),
        draft.network(),
        draft.relays().len(),
        date(draft.valid_until()),
        until(draft.valid_until(), now),
    );
    for signer in draft.signers() {
        text.push_str("  ");
        text.push_str(&id_to_hex(&signer));
        text.push('\n');
    }
    text
}
