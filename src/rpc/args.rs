//! Arguments as programs write them: numbers for booleans, texts for numbers, fractions for whole numbers. What is of another kind
//! altogether is refused, never taken for something else.

use serde_json::{Map, Value};

/// Arguments of a call.
pub(super) struct Args<'a>(pub(super) &'a Map<String, Value>);

/// What is wrong, for the program that asked.
pub(super) type Wrong = String;

impl Args<'_> {
    /// An argument; one that is null was left out.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(format!("\"{name}\" must be {kind}")),
            },
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Wrong> {
        self.typed(name, "a text", Value::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Wrong> {
        self.typed(name, "true or false", flag)
    }

    pub(super) fn whole(&self, name: &str) -> Result<Option<i64>, Wrong> {
        self.typed(name, "a whole number", whole)
    }

    /// A number that is not below zero.
    pub(super) fn count(&self, name: &str) -> Result<Option<u64>, Wrong> {
        let kind = "a number, and not below 0";
        self.typed(name, kind, |value| u64::try_from(whole(value)?).ok())
    }

    pub(super) fn fraction(&self, name: &str) -> Result<Option<f64>, Wrong> {
        self.typed(name, "a number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// Texts, at most so many, each at most so long in bytes.
    pub(super) fn texts(
        &self,
        name: &str,
        most: usize,
        longest: usize,
    ) -> Result<Option<Vec<String>>, Wrong> {
        self.typed(name, "a list of texts, not too many or too long", |value| {
            let list = value.as_array().filter(|list| list.len() <= most)?;
            let texts = list.iter().map(|text| {
                let text = text.as_str().filter(|text| text.len() <= longest)?;
                Some(text.to_owned())
            });
            texts.collect()
        })
    }

    /// Numbers of files.
    pub(super) fn indices(&self, name: &str, most: usize) -> Result<Option<Vec<u32>>, Wrong> {
        self.typed(name, "a list of numbers of files", |value| {
            let list = value.as_array().filter(|list| list.len() <= most)?;
            let numbers = list.iter().map(|number| u32::try_from(whole(number)?).ok());
            numbers.collect()
        })
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A whole number; some programs write `5.0`.
pub(super) fn whole(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    // Beyond it, not every whole number has a fraction's form.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}
