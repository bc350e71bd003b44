//! The formats of clients' configuration files: qBittorrent's INI, Deluge's pair of JSON objects, aria2's lines. Pure, bounded by
//! [`MAX_FILE`], and forgiving: what can't be understood is left out, and its setting counts as the client's default.

use std::collections::BTreeMap;

use serde_json::Value;

/// Largest configuration file that is read, bytes; real ones have some thousand.
pub const MAX_FILE: usize = 1 << 20;

/// Keys and values of an INI file, by `section/key`; keys keep their backslashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ini(BTreeMap<String, String>);

impl Ini {
    /// Reads the text of a file. Of a key that is there twice, the last counts.
    pub fn parse(text: &str) -> Self {
        let mut values = BTreeMap::new();
        let mut section = "";
        for line in text.get(..MAX_FILE).unwrap_or(text).lines() {
            let line = line.trim();
            if let Some(head) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                section = head;
            } else if let Some((key, value)) = line.split_once('=')
                && !line.starts_with([';', '#'])
            {
                let name = format!("{section}/{}", key.trim());
                values.insert(name, value.trim().trim_matches('"').to_owned());
            }
        }
        Self(values)
    }

    /// A value as it stands there.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that is `true` or `false`, or the client's default.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        match self.text(name) {
            Some("true") => true,
            Some("false") => false,
            _ => default,
        }
    }
}

/// Reads lines of `name=value`, as of `aria2.conf`.
pub fn lines(text: &str) -> Ini {
    let mut ini = Ini::parse(text);
    ini.0 = std::mem::take(&mut ini.0)
        .into_iter()
        .map(|(name, value)| (name.trim_start_matches('/').to_owned(), value))
        .collect();
    ini
}

/// Reads the last JSON object of a text: Transmission writes one, Deluge writes a small one before its settings.
pub fn last_object(text: &str) -> Option<Value> {
    if text.len() > MAX_FILE {
        return None;
    }
    let objects = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let whole = objects.map_while(Result::ok);
    whole.filter(Value::is_object).last()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_keys_and_flags_read_as_qbittorrent_writes_them() {
        let ini = Ini::parse(
            "[BitTorrent]\nSession\\DHTEnabled=false\n\n[Network]\r\nProxy\\Type=SOCKS5\r\n; x=1\nProxy\\Port=@Variant(\\0)\n",
        );
        assert!(!ini.flag("BitTorrent/Session\\DHTEnabled", true));
        assert_eq!(ini.text("Network/Proxy\\Type"), Some("SOCKS5"));
        assert!(ini.flag("BitTorrent/Session\\LSDEnabled", true));
        assert_eq!(ini.text("Network/; x"), None);
    }

    #[test]
    fn of_two_objects_the_last_counts_and_half_a_one_does_not() {
        let text = r#"{"file": 1, "format": 1}{"dht": false}"#;
        assert_eq!(last_object(text).unwrap()["dht"], false);
        assert_eq!(last_object(r#"{"a": 1}{"dht": fal"#).unwrap()["a"], 1);
        assert_eq!(last_object("no"), None);
    }

    #[test]
    fn lines_have_no_section() {
        let conf = lines("# x=y\nenable-dht=false\nall-proxy = http://127.0.0.1:1080\n");
        assert_eq!(conf.text("enable-dht"), Some("false"));
        assert_eq!(conf.text("all-proxy"), Some("http://127.0.0.1:1080"));
        assert_eq!(conf.text("# x"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in ".{0,400}", ini in "(\\[[a-z/]{0,4}\\]?|[a-z\\\\]{0,4}=?\"?[a-z]{0,4}|\n){0,40}") {
            for text in [&text, &ini] {
                let parsed = Ini::parse(text);
                for (name, value) in &parsed.0 {
                    prop_assert!(!name.contains('\n') && !value.contains('\n'));
                }
                lines(text);
                last_object(text);
            }
        }
    }
}
