"""The pictures of a report: ``figure`` says what they show, ``pictures`` draws them."""
