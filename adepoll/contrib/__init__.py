"""adepoll in other houses: one small module for each ecosystem. Nothing else imports them."""
