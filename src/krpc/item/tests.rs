use proptest::prelude::*;

use super::*;

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    data_encoding::HEXLOWER
        .decode(text.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

/// The key of BEP 44's test vectors.
const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";

#[test]
fn the_mutable_items_of_bep_44_are_read() {
    for (salt, signature, target) in [
        (
            &b""[..],
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
            "4a533d47ec9c7d95b1ad75f576cffc641853b750",
        ),
        (
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
            "411eba73b6f087ca51a3795d9c8c938d365e32c1",
        ),
    ] {
        let (key, signature) = (unhex(KEY), unhex(signature));
        let item = Item::mutable(&key, salt, 1, b"12:Hello World!", &signature).unwrap();
        assert_eq!(item.target(), Id(unhex(target)));
        assert_eq!(ItemName::mutable(&key, salt), Ok(item.name()));
        for (salt, seq, value) in [
            (&b"other"[..], 1, &b"12:Hello World!"[..]),
            (salt, 2, b"12:Hello World!"),
            (salt, 1, b"12:Hello World?"),
        ] {
            assert_eq!(
                Item::mutable(&key, salt, seq, value, &signature),
                Err(ItemError::Forged)
            );
        }
    }
}

#[test]
fn the_immutable_item_of_bep_44_is_found_under_its_hash() {
    let item = Item::immutable(b"12:Hello World!").unwrap();
    assert_eq!(
        item.target(),
        Id(unhex("e5f96f6f38320f0f33959cb4d3d656452117aadb"))
    );
    assert!(
        item.clone()
            .named(&ItemName::immutable(b"12:Hello World!"))
            .is_ok()
    );
    assert_eq!(
        item.named(&ItemName::immutable(b"12:Hello World?")),
        Err(ItemError::Other)
    );
}

#[test]
fn an_item_of_another_salt_is_another_item() {
    let key = IdentityKey::from_seed([3; 32]);
    let item = Item::sign(&key, b"a", 0, b"i1e").unwrap();
    let public = key.public().0;
    assert!(
        item.clone()
            .named(&ItemName::mutable(&public, b"a").unwrap())
            .is_ok()
    );
    for salt in [&b""[..], b"b", b"ab"] {
        let name = ItemName::mutable(&public, salt).unwrap();
        assert_eq!(item.clone().named(&name), Err(ItemError::Other));
    }
    // SHA-1(key | salt) does not say where the key ends; the salt does.
    let shifted = ItemName::new(item.target(), b"").unwrap();
    assert_eq!(item.named(&shifted), Err(ItemError::Other));
}

#[test]
fn a_key_of_small_order_signs_nothing() {
    let mut neutral = [0; KEY_LEN];
    neutral[0] = 1;
    let mut signature = [0; SIGNATURE_LEN];
    signature[0] = 1;
    for seq in 0..32 {
        assert_eq!(
            Item::mutable(&neutral, b"", seq, b"i1e", &signature),
            Err(ItemError::Forged)
        );
    }
}

#[test]
fn limits_are_bep_44s() {
    let value = |len: usize| [format!("{len}:").into_bytes(), vec![b'a'; len]].concat();
    let key = IdentityKey::from_seed([3; 32]);
    assert!(Item::immutable(&value(996)).is_ok_and(|item| item.value().len() == MAX_VALUE));
    assert_eq!(Item::immutable(&value(997)), Err(ItemError::TooLong));
    assert!(Item::sign(&key, &[1; MAX_SALT], i64::MAX, b"de").is_ok());
    assert_eq!(
        Item::sign(&key, &[1; MAX_SALT + 1], 1, b"de"),
        Err(ItemError::LongSalt)
    );
    assert_eq!(Item::sign(&key, b"", -1, b"de"), Err(ItemError::Negative));
    for value in [&b""[..], b"x", b"i1ei2e", b"l", b"d1:a"] {
        assert_eq!(Item::immutable(value), Err(ItemError::NotBencode));
        assert_eq!(Item::sign(&key, b"", 1, value), Err(ItemError::NotBencode));
    }
}

#[test]
fn its_debug_shows_nothing() {
    let item = Item::sign(&IdentityKey::from_seed([3; 32]), b"salt", 1, b"6:secret").unwrap();
    assert_eq!(
        format!("{item:?} {:?} {:?}", item.name(), item.signed()),
        "[item] [item name] Some([signed])"
    );
}

proptest! {
    #[test]
    fn what_is_signed_is_read_and_what_is_changed_is_not(
        seed: [u8; 32],
        salt in prop::collection::vec(any::<u8>(), 0..=MAX_SALT),
        seq in 0..i64::MAX,
        number: i64,
        at in 0..SIGNATURE_LEN,
        bit in 0..8_u8,
    ) {
        let value = format!("i{number}e").into_bytes();
        let item = Item::sign(&IdentityKey::from_seed(seed), &salt, seq, &value).unwrap();
        let signed = item.signed().unwrap();
        let (key, mut signature) = (signed.key, signed.signature);
        prop_assert_eq!(Item::mutable(&key, &salt, seq, &value, &signature), Ok(item.clone()));
        prop_assert!(item.clone().named(&item.name()).is_ok());
        signature[at] ^= 1 << bit;
        prop_assert_eq!(Item::mutable(&key, &salt, seq, &value, &signature), Err(ItemError::Forged));
    }
}
