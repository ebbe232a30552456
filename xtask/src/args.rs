//! Reads xtask's own command lines: `--flag`, `--option value`, `--option=value`, the rest.

use crate::error::{Error, Result};

/// Arguments that have not been asked for yet. Order does not matter; `--` ends the options.
#[derive(Debug)]
pub(crate) struct Args {
    options: Vec<String>,
    rest: Vec<String>,
}

impl Args {
    /// Splits the arguments at the first `--`.
    pub(crate) fn new(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut options: Vec<String> = arguments.into_iter().collect();
        let rest = match options.iter().position(|argument| argument == "--") {
            Some(at) => {
                let rest = options.split_off(at);
                rest.into_iter().skip(1).collect()
            }
            None => Vec::new(),
        };
        Self { options, rest }
    }

    /// Like [`Args::new`], but a leading `--` is only the one that `cargo xtask boot --` users
    /// put before our options.
    pub(crate) fn without_separator(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut options: Vec<String> = arguments.into_iter().collect();
        if options.first().is_some_and(|argument| argument == "--") {
            options.remove(0);
        }
        Self::new(options)
    }

    /// Whether `--name` is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|argument| argument != name);
        self.options.len() != before
    }

    /// The value of `--name`, when it is given; the last one counts.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.options_named(name)?.pop())
    }

    /// The values of every `--name`.
    pub(crate) fn options_named(&mut self, name: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        let mut kept = Vec::new();
        let mut arguments = std::mem::take(&mut self.options).into_iter();
        while let Some(argument) = arguments.next() {
            if argument == name {
                let value = arguments.next();
                values.push(value.ok_or_else(|| Error::Usage(format!("{name} needs a value")))?);
            } else if let Some(value) = argument
                .strip_prefix(name)
                .and_then(|tail| tail.strip_prefix('='))
            {
                values.push(value.to_owned());
            } else {
                kept.push(argument);
            }
        }
        self.options = kept;
        Ok(values)
    }

    /// What is left: words that are not options, then everything after `--`.
    ///
    /// # Errors
    /// When an option is left that nobody asked for.
    pub(crate) fn rest(self) -> Result<Vec<String>> {
        if let Some(unknown) = self
            .options
            .iter()
            .find(|argument| argument.starts_with('-'))
        {
            return Err(Error::Usage(format!("unknown option {unknown}")));
        }
        Ok(self.options.into_iter().chain(self.rest).collect())
    }

    /// Ends the reading where no words are expected.
    ///
    /// # Errors
    /// When anything is left.
    pub(crate) fn done(self) -> Result<()> {
        match self.rest()?.first() {
            Some(word) => Err(Error::Usage(format!("unexpected argument {word}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::without_separator(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn options_are_found_anywhere_before_the_separator() {
        let mut args = args(&[
            "--", "--exec", "uname -a", "-v", "--cpus=2", "--", "--cpus", "9",
        ]);
        assert_eq!(args.option("--exec").unwrap().as_deref(), Some("uname -a"));
        assert_eq!(args.option("--cpus").unwrap().as_deref(), Some("2"));
        assert!(args.flag("-v"));
        assert_eq!(args.rest().unwrap(), ["--cpus", "9"]);
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        assert!(args(&["--nonsense"]).rest().is_err());
        assert!(args(&["word"]).done().is_err());
        assert!(args(&["--exec"]).option("--exec").is_err());
    }
}
