//! Text made without allocation.

/// A line of text in a fixed buffer; what does not fit is cut.
pub(super) struct Line {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl Line {
    /// Room for the longest message, while leaving an alternate stack of 8 KiB mostly free.
    const CAPACITY: usize = 256;

    /// An empty line.
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            length: 0,
        }
    }

    /// Appends text.
    pub(super) fn text(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        for &byte in text.as_ref() {
            if let Some(free) = self.bytes.get_mut(self.length) {
                *free = byte;
                self.length += 1;
            }
        }
        self
    }

    /// Appends a number in decimal.
    pub(super) fn number(&mut self, number: i64) -> &mut Self {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            self.text("-");
        }
        self.text(&digits[at..])
    }

    /// Writes the line to standard error, as far as that takes it.
    pub(super) fn print(&self) {
        // SAFETY: the first `length` bytes of the buffer are readable.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.length) };
    }

    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn numbers_read_as_decimal() {
        for number in [0, 7, 10, 4_294_967_295, i64::MAX, -1, i64::MIN] {
            assert_eq!(Line::new().number(number).as_str(), number.to_string());
        }
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut line = Line::new();
        for _ in 0..100 {
            line.text("12345");
        }
        assert_eq!(line.as_str().len(), Line::CAPACITY);
        assert!(line.as_str().ends_with('1'));
    }
}
