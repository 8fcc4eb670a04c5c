"""`gotrace serve`: processes that come and go are traced all the time; their last seconds are kept, judged and served."""
