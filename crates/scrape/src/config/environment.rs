//! Variables of the environment in `global.external_labels`: `$NAME`, `${NAME}`, and `$$` for a dollar.

use super::Config;

impl Config {
    /// Puts values in the place of variables in the values of `external_labels`, as Prometheus 3 does. A variable without a
    /// value is nothing, and a label without a value is none.
    pub fn expand_external_labels(&mut self, variable: impl Fn(&str) -> Option<String>) {
        let labels = &mut self.global.external_labels;
        labels.values_mut().for_each(|value| *value = expand(value, &variable));
        labels.retain(|_, value| !value.is_empty());
    }
}

fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, behind) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        rest = behind;
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None if name.is_empty() => out.push('$'),
            None => tracing::warn!(name, "external_labels: there is no such variable in the environment"),
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn variables_in_external_labels() {
        let variable = |name: &str| match name {
            "POD" => Some("store-0".to_owned()),
            "A_1" => Some("$POD".to_owned()),
            _ => None,
        };
        // (written, expanded)
        let table = [
            ("plain", "plain"),
            ("$POD", "store-0"),
            ("${POD}", "store-0"),
            ("a-${POD}-b", "a-store-0-b"),
            ("$POD.$POD/", "store-0.store-0/"),
            ("${A_1}$A_1", "$POD$POD"),
            ("$PODS", ""),
            ("a${NONE}b", "ab"),
            ("$$POD", "$POD"),
            ("$", "$"),
            ("5$ or 6$", "5$ or 6$"),
            ("${POD", "${POD"),
            ("é$POD", "éstore-0"),
        ];
        for (written, expanded) in table {
            assert_eq!(expand(written, variable), expanded, "{written}");
        }
        let text = "global: {external_labels: {replica: $POD, zone: $ZONE, zip: 007}}\n";
        let mut config = Config::parse(text, Path::new("")).unwrap_or_else(|e| panic!("{e}"));
        config.expand_external_labels(variable);
        let labels: Vec<_> = config.global.external_labels.into_iter().collect();
        let expected = [("replica", "store-0"), ("zip", "007")];
        assert_eq!(
            labels,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
