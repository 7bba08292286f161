locals {
  input_arn  = "arn:${data.aws_partition.current.partition}:s3:::${var.input_bucket}"
  output_arn = aws_s3_bucket.datasets.arn

  # Lists of one or of none, for what stands in a policy only where it is given.
  kms_keys       = var.kms_key_arn[*]
  input_kms_keys = var.input_kms_key_arn[*]
  oidc_providers = var.oidc_provider_arn[*]

  # The calls that the pipeline makes, and no others; a test holds this against what it was seen to call.
  reading  = { bucket = ["s3:ListBucket"], objects = ["s3:GetObject"] }
  writing  = ["s3:PutObject"]
  removing = ["s3:DeleteObject"]
}

data "aws_partition" "current" {}

# Machines of EC2 take a role through its instance profile.
data "aws_iam_policy_document" "machines" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Who takes the reader's and the writer's role. The head's is for machines alone, since it may start others.
data "aws_iam_policy_document" "trust" {
  source_policy_documents = [data.aws_iam_policy_document.machines.json]
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
  # Pods of EKS, by their service account: its token names it in `sub`, and whom it is for in `aud`.
  dynamic "statement" {
    for_each = local.oidc_providers
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [statement.value]
      }
      condition {
        test     = "StringEquals"
        variable = "${split(":oidc-provider/", statement.value)[1]}:sub"
        values   = ["system:serviceaccount:${var.service_account}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${split(":oidc-provider/", statement.value)[1]}:aud"
        values   = ["sts.amazonaws.com"]
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
  dynamic "statement" {
    for_each = local.input_kms_keys
    content {
      sid       = "ReadEncryptedInput"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "datasets" {
  for_each = {
    reader = data.aws_iam_policy_document.trust.json
    writer = data.aws_iam_policy_document.trust.json
    head   = data.aws_iam_policy_document.machines.json
  }
  name               = "${var.bucket}-${each.key}"
  assume_role_policy = each.value
}

resource "aws_iam_role_policy" "datasets" {
  for_each = {
    reader = data.aws_iam_policy_document.reader.json
    writer = data.aws_iam_policy_document.writer.json
    head   = data.aws_iam_policy_document.head.json
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
