//! Bencode (BEP 3): a strict reader that borrows, and a writer.
//!
//! A message is checked once as a whole, without recursion and without allocation; then a [`Value`] is just the slice of
//! bytes it stands in. So the exact bytes of an info dictionary are at hand for its hash, nothing is ever encoded again
//! to find them, and a hostile message costs no memory beyond its own length.

/// Deepest nesting. The deepest message in use (a file tree, BEP 52) grows with its paths; anything else needs 5.
pub const MAX_DEPTH: usize = 100;

/// Longest number in digits, sign included: that of `i64::MIN`.
const MAX_DIGITS: usize = 20;

/// The bytes are not bencode: drop the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BencodeError {
    /// The bytes end inside a value.
    #[error("the message is cut off")]
    CutOff,
    /// A byte that starts no value, or a list or dictionary that ends where it can't.
    #[error("unexpected byte {0:#04x}")]
    Unexpected(u8),
    /// An integer or length with leading zeros, a bad sign, no digits, or beyond 64 bits.
    #[error("malformed number")]
    BadNumber,
    /// A dictionary key that is not a string.
    #[error("a dictionary key is not a string")]
    BadKey,
    /// The same key twice in a dictionary.
    #[error("a dictionary has a key twice")]
    DuplicateKey,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested too deep")]
    TooDeep,
    /// More bytes follow the value.
    #[error("bytes follow the end of the message")]
    Trailing,
    /// A dictionary was expected.
    #[error("not a dictionary")]
    NotDict,
}

/// What stands at the front of some bytes.
enum Token<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List,
    Dict,
    End,
}

/// Reads one token; gives it and the rest.
fn token(bytes: &[u8]) -> Result<(Token<'_>, &[u8]), BencodeError> {
    let (&first, rest) = bytes.split_first().ok_or(BencodeError::CutOff)?;
    match first {
        b'l' => Ok((Token::List, rest)),
        b'd' => Ok((Token::Dict, rest)),
        b'e' => Ok((Token::End, rest)),
        b'i' => {
            let (digits, rest) = split_number(rest, b'e')?;
            let magnitude = digits.strip_prefix('-').unwrap_or(digits);
            // Canonical: no "-0", no leading zero, no "+".
            if !canonical_digits(magnitude) || (digits.len() != magnitude.len() && magnitude == "0")
            {
                return Err(BencodeError::BadNumber);
            }
            let value = digits.parse().map_err(|_| BencodeError::BadNumber)?;
            Ok((Token::Int(value), rest))
        }
        b'0'..=b'9' => {
            let (digits, rest) = split_number(bytes, b':')?;
            if !canonical_digits(digits) {
                return Err(BencodeError::BadNumber);
            }
            let len = digits
                .parse::<usize>()
                .map_err(|_| BencodeError::BadNumber)?;
            let (value, rest) = rest.split_at_checked(len).ok_or(BencodeError::CutOff)?;
            Ok((Token::Bytes(value), rest))
        }
        other => Err(BencodeError::Unexpected(other)),
    }
}

/// Splits off the text before `end`.
fn split_number(bytes: &[u8], end: u8) -> Result<(&str, &[u8]), BencodeError> {
    let window = bytes.get(..=MAX_DIGITS).unwrap_or(bytes);
    let Some(at) = window.iter().position(|&b| b == end) else {
        let cut_off = window.len() == bytes.len();
        return Err(if cut_off {
            BencodeError::CutOff
        } else {
            BencodeError::BadNumber
        });
    };
    let digits = std::str::from_utf8(&bytes[..at]).map_err(|_| BencodeError::BadNumber)?;
    Ok((digits, &bytes[at + 1..]))
}

fn canonical_digits(digits: &str) -> bool {
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'))
}

/// An open list or dictionary during the check.
#[derive(Clone, Copy)]
enum Level<'a> {
    List,
    /// Awaiting a key; holds the one before.
    Key(Option<&'a [u8]>),
    /// Awaiting the value of this key.
    Value(&'a [u8]),
}

/// A value that was checked: the bytes it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
    sorted: bool,
}

impl<'a> Value<'a> {
    /// Checks a message that is one value and nothing else.
    ///
    /// # Errors
    /// Not bencode: drop the message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BencodeError> {
        match Self::parse_prefix(bytes)? {
            (value, []) => Ok(value),
            _ => Err(BencodeError::Trailing),
        }
    }

    /// Checks the value at the front of `bytes`; gives it and the rest.
    ///
    /// # Errors
    /// Not bencode: drop the message.
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BencodeError> {
        let mut stack = [Level::List; MAX_DEPTH];
        let mut depth = 0_usize;
        let mut sorted = true;
        let mut rest = bytes;
        loop {
            let (token, after) = token(rest)?;
            rest = after;
            // What the open level makes of the token; it may be a key, which is no value yet.
            match (depth.checked_sub(1).map(|top| &mut stack[top]), &token) {
                (None, Token::End) => return Err(BencodeError::Unexpected(b'e')),
                (Some(Level::Value(_)), Token::End) => return Err(BencodeError::Unexpected(b'e')),
                (Some(Level::List | Level::Key(_)), Token::End) => depth -= 1,
                (Some(level @ Level::Key(_)), Token::Bytes(key)) => {
                    if let Level::Key(Some(before)) = *level {
                        match before.cmp(key) {
                            std::cmp::Ordering::Less => {}
                            std::cmp::Ordering::Equal => return Err(BencodeError::DuplicateKey),
                            std::cmp::Ordering::Greater => sorted = false,
                        }
                    }
                    *level = Level::Value(key);
                    continue;
                }
                (Some(Level::Key(_)), Token::Int(_) | Token::List | Token::Dict) => {
                    return Err(BencodeError::BadKey);
                }
                (Some(level @ Level::Value(_)), _) => {
                    if let Level::Value(key) = *level {
                        *level = Level::Key(Some(key));
                    }
                    depth = push(&mut stack, depth, &token)?;
                }
                (None | Some(Level::List), _) => depth = push(&mut stack, depth, &token)?,
            }
            if depth == 0 {
                let raw = &bytes[..bytes.len() - rest.len()];
                return Ok((Self { raw, sorted }, rest));
            }
        }
    }

    /// The exact bytes of this value.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Whether the keys of every dictionary in the checked message stood in ascending order, as they should.
    pub fn keys_sorted(self) -> bool {
        self.sorted
    }

    /// The integer, where the value is one.
    pub fn as_int(self) -> Option<i64> {
        match token(self.raw) {
            Ok((Token::Int(value), _)) => Some(value),
            Ok(_) | Err(_) => None,
        }
    }

    /// The integer, where the value is one that is not negative.
    pub fn as_uint(self) -> Option<u64> {
        self.as_int().and_then(|value| u64::try_from(value).ok())
    }

    /// The string, where the value is one.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match token(self.raw) {
            Ok((Token::Bytes(value), _)) => Some(value),
            Ok(_) | Err(_) => None,
        }
    }

    /// The string, where the value is one and UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        self.as_bytes()
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The items, where the value is a list.
    pub fn as_list(self) -> Option<Items<'a>> {
        let rest = self.raw.strip_prefix(b"l")?;
        Some(Items {
            rest,
            sorted: self.sorted,
        })
    }

    /// The keys and values, where the value is a dictionary.
    pub fn as_dict(self) -> Option<Entries<'a>> {
        let rest = self.raw.strip_prefix(b"d")?;
        Some(Entries(Items {
            rest,
            sorted: self.sorted,
        }))
    }

    /// The values of these keys in a dictionary, by one pass over it.
    ///
    /// # Errors
    /// Not a dictionary, or one of the keys occurs twice (out of order, else the check had found it).
    pub fn fields<const N: usize>(
        self,
        keys: [&str; N],
    ) -> Result<[Option<Value<'a>>; N], BencodeError> {
        let mut found = [None; N];
        for (key, value) in self.as_dict().ok_or(BencodeError::NotDict)? {
            let wanted = keys
                .iter()
                .zip(&mut found)
                .find(|(name, _)| name.as_bytes() == key);
            if let Some((_, slot)) = wanted
                && slot.replace(value).is_some()
            {
                return Err(BencodeError::DuplicateKey);
            }
        }
        Ok(found)
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Value")
            .field("len", &self.raw.len())
            .finish_non_exhaustive()
    }
}

fn push<'a>(
    stack: &mut [Level<'a>; MAX_DEPTH],
    depth: usize,
    token: &Token<'a>,
) -> Result<usize, BencodeError> {
    let level = match token {
        Token::List => Level::List,
        Token::Dict => Level::Key(None),
        Token::Int(_) | Token::Bytes(_) | Token::End => return Ok(depth),
    };
    *stack.get_mut(depth).ok_or(BencodeError::TooDeep)? = level;
    Ok(depth + 1)
}

/// The items of a list.
#[derive(Clone)]
pub struct Items<'a> {
    rest: &'a [u8],
    sorted: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        // The message was checked, so errors and a missing end can't occur; they would end the list.
        let start = self.rest;
        let mut rest = start;
        let mut depth = 0_usize;
        loop {
            let (token, after) = token(rest).ok()?;
            rest = after;
            depth = match token {
                Token::Int(_) | Token::Bytes(_) => depth,
                Token::List | Token::Dict => depth + 1,
                Token::End => depth.checked_sub(1)?,
            };
            if depth == 0 {
                break;
            }
        }
        self.rest = rest;
        Some(Value {
            raw: &start[..start.len() - rest.len()],
            sorted: self.sorted,
        })
    }
}

/// The keys and values of a dictionary, as they stand.
#[derive(Clone)]
pub struct Entries<'a>(Items<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_bytes()?;
        Some((key, self.0.next()?))
    }
}

/// Appends an integer.
pub fn put_int(out: &mut Vec<u8>, value: impl Into<i128>) {
    out.extend_from_slice(format!("i{}e", value.into()).as_bytes());
}

/// Appends a string.
pub fn put_bytes(out: &mut Vec<u8>, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    out.extend_from_slice(value.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(value);
}

/// Appends a list, whose items `fill` appends.
pub fn put_list(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'l');
    fill(out);
    out.push(b'e');
}

/// Appends a dictionary, whose entries `fill` gives in ascending order of their keys.
pub fn put_dict(out: &mut Vec<u8>, fill: impl FnOnce(&mut DictWriter<'_>)) {
    out.push(b'd');
    fill(&mut DictWriter { out, last: None });
    out.push(b'e');
}

/// Writes the entries of one dictionary.
pub struct DictWriter<'a> {
    out: &'a mut Vec<u8>,
    last: Option<&'static str>,
}

impl DictWriter<'_> {
    /// Writes a key and gives where its one value is to be appended.
    pub fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        debug_assert!(self.last < Some(key), "keys ascend");
        self.last = Some(key);
        put_bytes(self.out, key);
        self.out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Tree {
        Int(i64),
        Bytes(Vec<u8>),
        List(Vec<Tree>),
        Dict(std::collections::BTreeMap<Vec<u8>, Tree>),
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Tree::Int),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Tree::Bytes),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            let key = prop::collection::vec(any::<u8>(), 0..6);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
                prop::collection::btree_map(key, inner, 0..6).prop_map(Tree::Dict),
            ]
        })
    }

    fn write(tree: &Tree, out: &mut Vec<u8>) {
        match tree {
            Tree::Int(value) => put_int(out, *value),
            Tree::Bytes(value) => put_bytes(out, value),
            Tree::List(items) => put_list(out, |out| items.iter().for_each(|i| write(i, out))),
            Tree::Dict(items) => {
                out.push(b'd');
                for (key, value) in items {
                    put_bytes(out, key);
                    write(value, out);
                }
                out.push(b'e');
            }
        }
    }

    fn read(value: Value<'_>) -> Tree {
        if let Some(int) = value.as_int() {
            Tree::Int(int)
        } else if let Some(bytes) = value.as_bytes() {
            Tree::Bytes(bytes.to_vec())
        } else if let Some(items) = value.as_list() {
            Tree::List(items.map(read).collect())
        } else {
            let entries = value.as_dict().unwrap();
            Tree::Dict(
                entries
                    .map(|(key, value)| (key.to_vec(), read(value)))
                    .collect(),
            )
        }
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(tree in trees(), tail in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = Vec::new();
            write(&tree, &mut bytes);
            let len = bytes.len();
            bytes.extend_from_slice(&tail);
            let (value, rest) = Value::parse_prefix(&bytes).unwrap();
            prop_assert_eq!(value.raw(), &bytes[..len]);
            prop_assert_eq!(rest, &tail[..]);
            prop_assert!(value.keys_sorted());
            prop_assert_eq!(read(value), tree);
        }

        #[test]
        fn mutated_messages_read_fully_or_fail(
            tree in trees(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = Vec::new();
            write(&tree, &mut bytes);
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(value) = Value::parse(&bytes) {
                // Reading visits every byte: a container that ended early would change the length.
                let tree = read(value);
                if value.keys_sorted() {
                    let mut again = Vec::new();
                    write(&tree, &mut again);
                    prop_assert_eq!(again, bytes);
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(b'd'), Just(b'l'), Just(b'i'), Just(b'e'), Just(b'1'), Just(b':')
        ], 0..60)) {
            if let Ok((value, _)) = Value::parse_prefix(&bytes) {
                let _ = read(value);
            }
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        for (bytes, error) in [
            (&b""[..], BencodeError::CutOff),
            (b"i1", BencodeError::CutOff),
            (b"ie", BencodeError::BadNumber),
            (b"i-e", BencodeError::BadNumber),
            (b"i-0e", BencodeError::BadNumber),
            (b"i03e", BencodeError::BadNumber),
            (b"i+3e", BencodeError::BadNumber),
            (b"i9223372036854775808e", BencodeError::BadNumber),
            (b"i11111111111111111111111e", BencodeError::BadNumber),
            (b"3:ab", BencodeError::CutOff),
            (b"03:abc", BencodeError::BadNumber),
            (b"99999999999999999999:a", BencodeError::BadNumber),
            (b"18446744073709551615:a", BencodeError::CutOff),
            (b"-1:a", BencodeError::Unexpected(b'-')),
            (b"l", BencodeError::CutOff),
            (b"e", BencodeError::Unexpected(b'e')),
            (b"d1:ae", BencodeError::Unexpected(b'e')),
            (b"di1ei1ee", BencodeError::BadKey),
            (b"d1:ai1e1:ai2ee", BencodeError::DuplicateKey),
            (b"i1ei2e", BencodeError::Trailing),
        ] {
            assert_eq!(Value::parse(bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(Value::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(
            Value::parse(&nested(MAX_DEPTH + 1)),
            Err(BencodeError::TooDeep)
        );
        assert_eq!(
            Value::parse(&vec![b'l'; 1 << 20]),
            Err(BencodeError::TooDeep)
        );
    }

    #[test]
    fn unsorted_keys_are_read_but_noticed_and_their_duplicates_refused() {
        let value = Value::parse(b"d1:bi1e1:ai2ee").unwrap();
        assert!(!value.keys_sorted());
        let [a, b] = value.fields(["a", "b"]).unwrap();
        assert_eq!(
            (a.unwrap().as_int(), b.unwrap().as_int()),
            (Some(2), Some(1))
        );
        let twice = Value::parse(b"d1:bi1e1:ai2e1:bi3ee").unwrap();
        assert_eq!(twice.fields(["b"]), Err(BencodeError::DuplicateKey));
    }
}
