# Compiled without C types: subscriptions that come and go thousands of times a second pass here.
