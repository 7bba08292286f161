locals {
  input_arn  = "arn:${data.aws_partition.current.partition}:s3:::${var.input_bucket}"
  output_arn = aws_s3_bucket.datasets.arn
  kms_keys   = var.kms_key_arn == null ? [] : [var.kms_key_arn]

  # The calls that the pipeline makes, and no others; a test holds this against what it was seen to call.
  reading  = { bucket = ["s3:ListBucket"], objects = ["s3:GetObject"] }
  writing  = ["s3:PutObject"]
  removing = ["s3:DeleteObject"]
}

data "aws_partition" "current" {}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
  dynamic "statement" {
    for_each = length(var.trusted_arns) > 0 ? [var.trusted_arns] : []
    content {
      actions = ["sts:AssumeRole"]
      principals {
        type        = "AWS"
        identifiers = statement.value
      }
    }
  }
}

# Reads datasets: for training.
data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "ListDatasets"
    actions   = local.reading.bucket
    resources = [local.output_arn]
  }
  statement {
    sid       = "ReadDatasets"
    actions   = local.reading.objects
    resources = ["${local.output_arn}/*"]
  }
  dynamic "statement" {
    for_each = local.kms_keys
    content {
      sid       = "ReadEncrypted"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

# Runs jobs: reads videos and weights, writes datasets, and removes what `vidtok gc --remove` is told to.
data "aws_iam_policy_document" "writer" {
  statement {
    sid       = "ListAll"
    actions   = local.reading.bucket
    resources = [local.input_arn, local.output_arn]
  }
  statement {
    sid       = "ReadAll"
    actions   = local.reading.objects
    resources = ["${local.input_arn}/*", "${local.output_arn}/*"]
  }
  statement {
    sid       = "WriteDatasets"
    actions   = concat(local.writing, local.removing)
    resources = ["${local.output_arn}/*"]
  }
  dynamic "statement" {
    for_each = local.kms_keys
    content {
      sid       = "WriteEncrypted"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "datasets" {
  for_each           = toset(["reader", "writer"])
  name               = "${var.bucket}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "datasets" {
  for_each = {
    reader = data.aws_iam_policy_document.reader.json
    writer = data.aws_iam_policy_document.writer.json
  }
  name   = each.key
  role   = aws_iam_role.datasets[each.key].id
  policy = each.value
}

resource "aws_iam_instance_profile" "datasets" {
  for_each = aws_iam_role.datasets
  name     = each.value.name
  role     = each.value.name
}
